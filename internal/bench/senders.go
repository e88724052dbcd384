package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"
)

// senderCommand is the argument that makes this program run as the senders of a measurement. They have a process of
// their own so that what is measured is the server: in the process of a thousand busy clients, a sender would wait for
// its turn among them.
const senderCommand = "be-the-senders"

// task tells the process of the senders what to do.
type task struct {
	Addr    string
	Senders []sender
}

// sender is somebody who sends messages.
type sender struct{ Token, Room string }

// pacedSends sends messages until f returns, and returns how long (ms) each took.
func (h *house) pacedSends(f func() error) (waits []float64, err error) {
	t := task{Addr: h.addr}
	for i, a := range h.senders {
		t.Senders = append(t.Senders, sender{a.token, h.rooms[i][0]})
	}
	err = inProcess(senderCommand, t, &waits, f)
	return waits, err
}

// inProcess runs a command of this program that has a process of its own. The command gets the input, and works until f
// returns; what it prints then is the output.
func inProcess(command string, input, output any, f func() error) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(program, command)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	err = json.NewEncoder(in).Encode(input)
	if err == nil {
		err = f()
	}
	err = errors.Join(err, in.Close())
	if broken := json.NewDecoder(out).Decode(output); broken != nil {
		err = errors.Join(err, fmt.Errorf("the process %s: %w", command, broken))
	}
	return errors.Join(err, cmd.Wait())
}

// sendAll sends messages as a task from in says, until in ends, and writes how long (ms) each took.
func sendAll(in io.Reader, out io.Writer) error {
	var t task
	if err := json.NewDecoder(in).Decode(&t); err != nil {
		return err
	}
	txns.Store(time.Now().UnixNano()) // since a transaction ID of an earlier process would be a repetition
	ctx, end := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, in) // which ends when the measurement does
		end()
	}()
	waits, errs := make([][]float64, len(t.Senders)), make([]error, len(t.Senders))
	var wg sync.WaitGroup
	for i, s := range t.Senders {
		wg.Go(func() {
			a := account{conn: newConn(t.Addr, s.Token)}
			time.Sleep(signInPause / signInSenders * time.Duration(i))
			for ctx.Err() == nil && errs[i] == nil {
				start := time.Now()
				errs[i] = a.send(s.Room)
				waits[i] = append(waits[i], float64(time.Since(start).Microseconds())/1000)
				time.Sleep(signInPause)
			}
		})
	}
	wg.Wait()
	var all []float64
	for _, w := range waits {
		all = append(all, w...)
	}
	return errors.Join(json.NewEncoder(out).Encode(all), errors.Join(errs...))
}
