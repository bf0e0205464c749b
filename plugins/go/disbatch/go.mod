module disbatch

go 1.18
