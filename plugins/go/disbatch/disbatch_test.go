package disbatch

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// The test binary is the plugin as well: started with DISBATCH_MODE it does what protocol/vectors/README.md says.
func TestMain(m *testing.M) {
	if os.Getenv("DISBATCH_MODE") != "" {
		Run(conformance)
	}
	os.Exit(m.Run())
}

func conformance(task *Task) error {
	var parameters struct {
		Events [][]any
		Print  []any
		Throw  string
		Exit   int
	}
	if err := task.Parameters(&parameters); err != nil {
		return err
	}
	for _, event := range parameters.Events {
		say(task, event[0].(string), odd(event[1:]).([]any))
	}
	if print := parameters.Print; print != nil {
		for count := 0; count < int(print[1].(float64)); count++ {
			fmt.Print(print[0])
		}
	}
	if parameters.Throw != "" {
		return errors.New(parameters.Throw)
	}
	if parameters.Exit != 0 {
		return Exit(parameters.Exit)
	}
	return nil
}

// odd is the argument, with what JSON cannot say in the place of its names.
func odd(value any) any {
	switch value := value.(type) {
	case []any:
		for i := range value {
			value[i] = odd(value[i])
		}
	case map[string]any:
		switch value["odd"] {
		case "nan":
			return math.NaN()
		case "text":
			return "caf\xe9"
		}
		for name := range value {
			value[name] = odd(value[name])
		}
	}
	return value
}

func say(task *Task, event string, with []any) {
	switch event {
	case "progress":
		task.Progress(with[0].(float64), with[1].(string))
	case "log":
		task.Log(with[0].(string), with[1].(string), with[2].(map[string]any))
	case "status":
		task.Status(int(with[0].(float64)))
	case "set":
		task.Set(with[0].(map[string]any))
	case "result":
		if len(with) > 1 {
			task.Result(with[0], int(with[1].(float64)))
		} else {
			task.Result(with[0])
		}
	case "error":
		retry := with[3].(bool)
		task.Error(Failure{with[0].(string), with[1].(string), with[2].(string), &retry})
	case "snooze":
		task.Snooze(with[0].(float64), with[1].(string))
	case "tasks":
		var tasks []FollowUp
		for _, one := range with[0].([]any) {
			one := one.(map[string]any)
			tasks = append(tasks, FollowUp{one["queue"].(string), one["parameters"]})
		}
		task.FollowUp(tasks...)
	default:
		panic("no such event: " + event)
	}
}

type step struct {
	Host, Plugin    map[string]any
	HostClosesStdin bool `json:"host_closes_stdin"`
	HostKills       bool `json:"host_kills"`
}

func vectors(t *testing.T, name string, into any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "..", "protocol", "vectors", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatal(err)
	}
}

func TestWorkerVectors(t *testing.T) {
	var file struct {
		Cases []struct {
			Name    string
			Helper  any // true, or "untyped": not for Go
			Talk    []step
			Printed int `json:"printed_bytes"`
		}
	}
	vectors(t, "workers.json", &file)
	ran := 0
	for _, one := range file.Cases {
		if one.Helper == true {
			ran++
			t.Run(one.Name, func(t *testing.T) { talk(t, one.Talk, one.Printed) })
		}
	}
	if ran < 5 {
		t.Fatalf("expected cases for helpers, found %d", ran)
	}
}

func talk(t *testing.T, steps []step, printed int) {
	plugin := exec.Command(os.Args[0])
	plugin.Env = append(os.Environ(), "DISBATCH_MODE=worker", "DISBATCH_EVENT_FD=3")
	stdin, _ := plugin.StdinPipe()
	events, childEvents, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer events.Close()
	plugin.ExtraFiles = []*os.File{childEvents}
	plugin.Stderr = new(bytes.Buffer)
	stdout := new(bytes.Buffer)
	plugin.Stdout = stdout
	if err := plugin.Start(); err != nil {
		t.Fatal(err)
	}
	childEvents.Close()
	killer := time.AfterFunc(20*time.Second, func() { plugin.Process.Kill() })
	defer killer.Stop()
	said := bufio.NewReader(events)
	for _, step := range steps {
		switch {
		case step.HostClosesStdin:
			stdin.Close()
		case step.HostKills:
			plugin.Process.Kill()
		case step.Host != nil:
			line, _ := json.Marshal(step.Host)
			fmt.Fprintf(stdin, "%s\n", line)
		default:
			line, err := said.ReadBytes('\n')
			if err != nil {
				t.Fatalf("expected %v, found %v; stderr: %s", step.Plugin, err, plugin.Stderr)
			}
			var event map[string]any
			if err := json.Unmarshal(line, &event); err != nil {
				t.Fatal(err)
			}
			for name, wanted := range step.Plugin {
				text, isText := event[name].(string)
				pattern := fmt.Sprint(wanted)
				fits := strings.HasPrefix(pattern, "…") && strings.HasSuffix(text, strings.TrimPrefix(pattern, "…"))
				if !(isText && fits) && !reflect.DeepEqual(event[name], wanted) {
					t.Fatalf("expected %v, found %s", step.Plugin, line)
				}
			}
		}
	}
	if rest, _ := said.ReadBytes('\n'); len(rest) > 0 {
		t.Fatalf("expected no more events, found %s", rest)
	}
	err = plugin.Wait()
	if printed > 0 && stdout.Len() != printed {
		t.Fatalf("expected %d bytes on stdout, found %d", printed, stdout.Len())
	}
	if err != nil && !steps[len(steps)-1].HostKills {
		t.Fatalf("expected it to end with 0 at end of file, found %v; stderr: %s", err, plugin.Stderr)
	}
}

func TestStdinVectors(t *testing.T) {
	var file struct {
		Cases []struct{ Name, Line string }
	}
	vectors(t, "stdin.json", &file)
	for _, one := range file.Cases {
		task, err := newTask([]byte(one.Line + "\n"))
		if err != nil {
			t.Fatalf("%s: %v", one.Name, err)
		}
		var document struct {
			ID    string `json:"_id"`
			Queue string `json:"queue"`
		}
		if err := json.Unmarshal([]byte(one.Line), &document); err != nil {
			t.Fatal(err)
		}
		if task.ID != document.ID || task.Queue != document.Queue || string(task.Document) != one.Line {
			t.Errorf("%s: expected %s, found %s %s %s", one.Name, one.Line, task.ID, task.Queue, task.Document)
		}
	}
}

func TestAnErrorSaysItsTypeWhereThatSaysSomething(t *testing.T) {
	_, missing := os.Open("/nowhere/in.txt")
	for wanted, err := range map[string]error{
		"no luck":         errors.New("no luck"),
		"user 5: no luck": fmt.Errorf("user 5: %w", errors.New("no luck")),
		"fs.PathError: open /nowhere/in.txt: no such file or directory":       missing,
		"fs.PathError: read: open /nowhere/in.txt: no such file or directory": fmt.Errorf("read: %w", missing),
	} {
		if found := inWords(err); found != wanted {
			t.Errorf("expected %q, found %q", wanted, found)
		}
	}
}

func TestAnEventOfAnotherGoroutineThatJSONCannotHoldFailsTheTask(t *testing.T) {
	task := &Task{}
	exit := perform(func(task *Task) error {
		done := make(chan struct{})
		go func() {
			task.Result(map[string]any{"f": func() {}})
			close(done)
		}()
		<-done
		return nil
	}, task)
	if exit != 1 {
		t.Errorf("expected exit code 1, found %d", exit)
	}
}

func TestFloatsAreWrittenAsFloats(t *testing.T) {
	// Incident: 1e19 was written with 20 digits, which a host takes for an integer beyond 64 bits, and refuses.
	for _, one := range []struct {
		value any
		want  string
	}{
		{1e19, "1e+19"},
		{-1e19, "-1e+19"},
		{float64(1 << 63), "9.223372036854776e+18"},
		{float32(1e19), "1e+19"},
		{math.Copysign(0, -1), "-0.0"},
		{1e18, "1000000000000000000"},
		{1e300, "1e+300"},
		{int64(math.MinInt64), "-9223372036854775808"},
		{uint64(math.MaxUint64), "18446744073709551615"}, // an integer: the host says that it is too large
		{`10000000000000000000 "\ -0`, `"10000000000000000000 \"\\ -0"`},
		{map[string]any{"-0": []any{1e20, "x", 2e20}}, `{"-0":[1e+20,"x",2e+20]}`},
	} {
		text, err := json.Marshal(one.value)
		if err != nil {
			t.Fatal(err)
		}
		if found := string(withFloats(text)); found != one.want {
			t.Errorf("%v: expected %s, found %s", one.value, one.want, found)
		}
	}
}
