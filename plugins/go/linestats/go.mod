module linestats

go 1.18
