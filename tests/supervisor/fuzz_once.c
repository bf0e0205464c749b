/* Gives each file that it is told to what libFuzzer would call: where there is no libFuzzer, and to count lines. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { LONGEST = 1 << 20 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int main(int count, char **names)
{
    uint8_t *block = malloc(LONGEST);
    for (int i = 1; i < count && block != NULL; i++) {
        FILE *file = fopen(names[i], "rb");
        if (file == NULL) {
            perror(names[i]);
            return 1;
        }
        size_t size = fread(block, 1, LONGEST, file);
        (void)fclose(file);
        uint8_t *data = malloc(size > 0 ? size : 1); /* of exactly its size, so that a sanitizer sees a read behind it */
        if (data == NULL)
            return 1;
        for (size_t at = 0; at < size; at++)
            data[at] = block[at];
        (void)LLVMFuzzerTestOneInput(data, size);
        free(data);
    }
    free(block);
    return 0;
}
