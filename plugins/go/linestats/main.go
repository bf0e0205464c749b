// Linestats shows how long the lines of a text file are, and the longest ones.
// Exit 2: the task cannot be read. Exit 3: the file cannot be read.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"strconv"
	"strings"
)

const (
	exitBadTask    = 2
	exitUnreadable = 3

	// A program that reads gigabytes reports progress now and then; small files are done before anybody looks.
	progressEvery = 32 << 20 // bytes

	rows     = 16 // of the printed histogram: 0 to 9 characters, 10 to 19, and so on; the last has all the others
	barWidth = 40
)

type task struct {
	Parameters struct {
		Path  string `json:"path"`
		Limit int    `json:"limit"`
		Top   int    `json:"top"`
	} `json:"parameters"`
}

type line struct {
	Number int `json:"line"`
	Length int `json:"length"` // in characters; a byte that is not valid UTF-8 counts as one
}

type stats struct {
	Lines   int       `json:"lines"`
	Over    int       `json:"over"`
	Longest []line    `json:"longest"`
	rows    [rows]int // lines by tens of characters
}

func main() {
	var t task
	t.Parameters.Limit = 120 // the schema's defaults; the host fills them in, a run by hand does not
	t.Parameters.Top = 3
	if err := json.NewDecoder(os.Stdin).Decode(&t); err != nil {
		fail(exitBadTask, "expected a task as JSON on standard input: %v", err)
	}
	p := t.Parameters
	found, err := measure(p.Path, p.Limit, p.Top)
	if err != nil {
		fail(exitUnreadable, "cannot read %s: %v", p.Path, errors.Unwrap(err))
	}
	report(p.Path, p.Limit, found)
	send(map[string]any{"type": "result", "value": found})
}

// measure reads character by character, so that a file without line ends takes no more memory than others.
func measure(path string, limit, top int) (*stats, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}

	found := &stats{Longest: []line{}}
	reader := bufio.NewReaderSize(file, 1<<16)
	length, read, reported := 0, int64(0), int64(0)
	for {
		char, size, err := reader.ReadRune()
		if err == io.EOF {
			if length > 0 { // a last line without a line end
				found.add(length, limit, top)
			}
			return found, nil
		}
		if err != nil {
			return nil, err
		}
		if char == '\n' {
			found.add(length, limit, top)
			length = 0
		} else {
			length++
		}
		read += int64(size)
		if read-reported >= progressEvery && info.Size() > read {
			reported = read
			send(map[string]any{"type": "progress", "value": float64(read) / float64(info.Size())})
		}
	}
}

func (s *stats) add(length, limit, top int) {
	s.Lines++
	if row := length / 10; row < rows {
		s.rows[row]++
	} else {
		s.rows[rows-1]++
	}
	if length > limit {
		s.Over++
	}
	if len(s.Longest) == top && length <= s.Longest[top-1].Length {
		return
	}
	s.Longest = append(s.Longest, line{Number: s.Lines, Length: length})
	sort.SliceStable(s.Longest, func(i, j int) bool { return s.Longest[i].Length > s.Longest[j].Length })
	if len(s.Longest) > top {
		s.Longest = s.Longest[:top]
	}
}

func report(path string, limit int, found *stats) {
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	fmt.Fprintf(out, "%s: %d lines, %d longer than %d\n", path, found.Lines, found.Over, limit)
	most := 1
	for _, lines := range found.rows {
		if lines > most {
			most = lines
		}
	}
	for row, lines := range found.rows {
		if lines > 0 {
			bar := strings.Repeat("#", (lines*barWidth+most-1)/most)
			fmt.Fprintf(out, "%5s %8d  %s\n", strconv.Itoa(row*10)+"+", lines, bar)
		}
	}
	for _, one := range found.Longest {
		fmt.Fprintf(out, "line %d has %d characters\n", one.Number, one.Length)
	}
}

// send writes an event to descriptor 3, but only if the variable is set: without it, descriptor 3 may be anything.
func send(event any) {
	descriptor, err := strconv.Atoi(os.Getenv("DISBATCH_EVENT_FD"))
	if err != nil {
		return
	}
	data, err := json.Marshal(event)
	if err != nil {
		return
	}
	events := os.NewFile(uintptr(descriptor), "events")
	events.Write(append(data, '\n')) // optional: the exit code and the output say enough
}

func fail(code int, format string, values ...any) {
	fmt.Fprintf(os.Stderr, "linestats: "+format+"\n", values...)
	os.Exit(code)
}
