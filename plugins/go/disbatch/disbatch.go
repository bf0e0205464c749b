// Package disbatch writes a Disbatch plugin in Go: one function, called for each task, in oneshot and in worker mode.
//
//	func main() {
//		disbatch.Run(func(task *disbatch.Task) error {
//			var parameters struct{ Name string }
//			if err := task.Parameters(&parameters); err != nil {
//				return err
//			}
//			task.Progress(0.5, "half of it")
//			fmt.Println("Hello, " + parameters.Name)
//			task.Result(map[string]any{"greeted": parameters.Name})
//			return nil
//		})
//	}
//
// An error or a panic is a failure: its type, if it has one of its own, and its text become the task's error; Exit(n) just
// ends with that exit code, 0 to 255. An event that JSON cannot represent is not sent, and fails the task when work returns.
// Printed text becomes the task's output; invalid UTF-8 in an event becomes U+FFFD.
//
// One file, nothing but the standard library, Go 1.18 and up: copy its directory beside your program. Run by hand, without
// a host, the plugin reads one line of JSON from stdin and shows its events on stderr.
package disbatch

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
)

const protocol = 1

// Exit is an error that ends the task with this exit code and no message.
type Exit int

func (code Exit) Error() string { return "exit code " + strconv.Itoa(int(code)) }

// Task is the current task, with methods for its events. All of them are optional.
type Task struct {
	ID       string
	Queue    string
	Attempt  int             // 1 for the first attempt
	Deadline float64         // in Unix seconds, 0 without a time limit
	Document json.RawMessage // everything from the host; see the plugin protocol

	parameters json.RawMessage
	mutex      sync.Mutex // events may come from any goroutine
	unsent     error      // the error of the first event that could not be written
}

// FollowUp is a task to create once this one has succeeded.
type FollowUp struct {
	Queue      string `json:"queue"`
	Parameters any    `json:"parameters,omitempty"`
}

// Failure is an error with all fields of a task's error.
type Failure struct {
	Code    string
	Message string
	Detail  string
	Retry   *bool // whether another attempt makes sense; nil: not said
}

type object map[string]any

// Run calls work for the task (oneshot mode) or for each task in turn (worker mode), then ends the process.
func Run(work func(*Task) error) {
	lines := bufio.NewReaderSize(os.Stdin, 1<<16)
	if os.Getenv("DISBATCH_MODE") == "worker" {
		serve(lines, work)
		os.Exit(0)
	}
	line, err := lines.ReadBytes('\n')
	if err != nil && err != io.EOF {
		fail("stdin cannot be read: " + err.Error())
	}
	if len(bytes.TrimSpace(line)) == 0 {
		line = []byte("{}")
	}
	task, err := newTask(line)
	if err != nil {
		fail("expected the task as JSON on stdin: " + err.Error())
	}
	task.Attempt = 1
	if attempt, err := strconv.Atoi(os.Getenv("DISBATCH_ATTEMPT")); err == nil {
		task.Attempt = attempt
	}
	task.Deadline, _ = strconv.ParseFloat(os.Getenv("DISBATCH_DEADLINE"), 64)
	os.Exit(perform(work, task))
}

// Parameters reads the task's parameters into a struct or map, as json.Unmarshal does.
func (task *Task) Parameters(into any) error {
	if len(task.parameters) == 0 {
		return nil
	}
	return json.Unmarshal(task.parameters, into)
}

// Progress reports progress: value from 0 to 1, below 0 for unknown; message for people.
func (task *Task) Progress(value float64, message string) {
	event := object{"type": "progress", "value": value}
	if value < 0 {
		event["value"] = nil
	}
	put(event, "message", message)
	task.send(event)
}

// Log adds a line to the task's log. Level: debug, info, warning or error. Fields may be nil.
func (task *Task) Log(level, message string, fields map[string]any) {
	event := object{"type": "log", "level": level, "message": message}
	if len(fields) > 0 {
		event["fields"] = fields
	}
	task.send(event)
}

// Status makes the task fail with this status (2 and up), even with exit code 0; 0 takes it back.
func (task *Task) Status(status int) { task.send(object{"type": "status", "status": status}) }

// Set sets free fields of the task document.
func (task *Task) Set(fields map[string]any) { task.send(object{"type": "set", "fields": fields}) }

// Result gives the task's result, as JSON of at most 1 MiB; the last one counts. With a status, 2 and up, it fails.
func (task *Task) Result(value any, status ...int) {
	event := object{"type": "result", "value": value}
	if len(status) > 0 {
		event["status"] = status[0]
	}
	task.send(event)
}

// Error gives the reason for a failure; the task fails even with exit code 0.
func (task *Task) Error(failure Failure) {
	event := object{"type": "error", "message": failure.Message}
	put(event, "code", failure.Code)
	put(event, "detail", failure.Detail)
	if failure.Retry != nil {
		event["retry"] = *failure.Retry
	}
	task.send(event)
}

// Snooze, with exit code 0: run again in this many seconds, without using an attempt.
func (task *Task) Snooze(seconds float64, message string) {
	event := object{"type": "snooze", "seconds": seconds}
	put(event, "message", message)
	task.send(event)
}

// FollowUp names tasks to create once this one has succeeded.
func (task *Task) FollowUp(tasks ...FollowUp) {
	task.send(object{"type": "tasks", "tasks": append([]FollowUp{}, tasks...)}) // none is [], not null
}

func newTask(line []byte) (*Task, error) {
	var known struct {
		ID         string          `json:"_id"`
		Queue      string          `json:"queue"`
		Parameters json.RawMessage `json:"parameters"`
	}
	if err := json.Unmarshal(line, &known); err != nil {
		return nil, err
	}
	document := append(json.RawMessage(nil), bytes.TrimSpace(line)...)
	return &Task{ID: known.ID, Queue: known.Queue, Document: document, parameters: known.Parameters}, nil
}

func serve(lines *bufio.Reader, work func(*Task) error) {
	if _, err := lines.ReadBytes('\n'); err != nil { // hello
		return
	}
	send(object{"type": "ready", "protocol": protocol})
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		var message struct {
			Type     string
			Task     json.RawMessage
			Attempt  int
			Deadline float64
		}
		if err := json.Unmarshal(line, &message); err != nil {
			fail("expected a message as JSON on stdin: " + err.Error())
		}
		if message.Type != "task" {
			continue // from a later version of the protocol
		}
		task, err := newTask(message.Task)
		if err != nil {
			fail("expected a task: " + err.Error())
		}
		task.Attempt, task.Deadline = message.Attempt, message.Deadline
		exit := perform(work, task)
		send(object{"type": "done", "exit": exit, "task": task.ID})
	}
}

func perform(work func(*Task) error, task *Task) (exit int) {
	defer func() {
		if cause := recover(); cause != nil {
			fmt.Fprintf(os.Stderr, "panic: %v\n%s", cause, debug.Stack())
			task.Error(Failure{Code: "exception", Message: "panic: " + fmt.Sprint(cause)})
			exit = 1
		}
	}()
	err := work(task)
	if unsent := task.whyUnsent(); unsent != nil {
		err = unsent
	}
	var code Exit
	if errors.As(err, &code) {
		if code >= 0 && code <= 255 {
			return int(code)
		}
		err = fmt.Errorf("expected an exit code from 0 to 255, found %d", int(code))
	}
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, err)
	task.Error(Failure{Code: "exception", Message: inWords(err)})
	return 1
}

// inWords is the error's type and text, as in "fs.PathError: open in.txt: no such file or directory". The types of plain
// texts and of wrapped errors say nothing, so for these it is the type of the error inside, or none.
func inWords(err error) string {
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		name := strings.TrimPrefix(fmt.Sprintf("%T", inner), "*")
		switch name {
		case "errors.errorString", "fmt.wrapError", "fmt.wrapErrors", "errors.joinError":
			continue
		}
		return name + ": " + err.Error()
	}
	return err.Error()
}

func (task *Task) send(event object) {
	if err := send(event); err != nil {
		task.mutex.Lock()
		defer task.mutex.Unlock()
		if task.unsent == nil {
			task.unsent = err
		}
	}
}

func (task *Task) whyUnsent() error {
	task.mutex.Lock()
	defer task.mutex.Unlock()
	return task.unsent
}

var events = openEvents()

func openEvents() *os.File {
	descriptor, err := strconv.Atoi(os.Getenv("DISBATCH_EVENT_FD"))
	if err != nil {
		return nil
	}
	return os.NewFile(uintptr(descriptor), "events")
}

// send fails if JSON cannot represent the event. If nobody can receive it, the process ends.
func send(event object) error {
	var line bytes.Buffer
	encoder := json.NewEncoder(&line) // ends with a line feed
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(event); err != nil {
		return fmt.Errorf("the %v event cannot be written as JSON: %w", event["type"], err)
	}
	written := withFloats(line.Bytes())
	if events == nil {
		fmt.Fprintf(os.Stderr, "event: %s", written)
		return nil
	}
	if _, err := events.Write(written); err != nil {
		fail("an event could not be sent: " + err.Error())
	}
	return nil
}

// withFloats gives floats that encoding/json writes as integers the form of floats: it writes 1e19 with 20 digits, which a
// host takes for an integer beyond 64 bits and refuses, and -0.0 as -0.
func withFloats(line []byte) []byte {
	var out []byte
	copied := 0
	for at := 0; at < len(line); {
		switch c := line[at]; {
		case c == '"':
			for at++; line[at] != '"'; at++ {
				if line[at] == '\\' {
					at++
				}
			}
			at++
		case c == '-' || '0' <= c && c <= '9':
			end := at + 1
			for end < len(line) && strings.IndexByte("0123456789+-.eE", line[end]) >= 0 {
				end++
			}
			if float := asFloat(string(line[at:end])); float != "" {
				out = append(append(out, line[copied:at]...), float...)
				copied = end
			}
			at = end
		default:
			at++
		}
	}
	if copied == 0 {
		return line
	}
	return append(out, line[copied:]...)
}

// asFloat is "" for a number that may stay as it is, such as an integer that no float was written as.
func asFloat(number string) string {
	if number == "-0" {
		return "-0.0"
	}
	if len(number) < 19 || strings.ContainsAny(number, ".eE") {
		return ""
	}
	if _, err := strconv.ParseInt(number, 10, 64); err == nil {
		return ""
	}
	value, err := strconv.ParseFloat(number, 64)
	if err != nil || strconv.FormatFloat(value, 'f', -1, 64) != number {
		return ""
	}
	return strconv.FormatFloat(value, 'e', -1, 64)
}

func put(event object, name, text string) {
	if text != "" {
		event[name] = text
	}
}

func fail(message string) {
	fmt.Fprintln(os.Stderr, message)
	os.Exit(1)
}
