package processors

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// policiesArgument makes the program of the tests use only idle processors and print the policies of its threads.
const policiesArgument = "print-policies"

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == policiesArgument {
		if err := printPolicies(); err != nil {
			fmt.Println(err)
		}
		return
	}
	os.Exit(m.Run())
}

func printPolicies() error {
	if err := UseIdle(); err != nil {
		return err
	}
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, t := range threads {
		id, err := strconv.Atoi(t.Name())
		if err != nil {
			return err
		}
		now, err := unix.SchedGetAttr(id, 0)
		if err != nil {
			return err
		}
		fmt.Println(now.Policy)
	}
	return nil
}

func TestAllThreadsUseIdleProcessorsOnly(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), os.Args[0], policiesArgument).CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	policies := strings.Fields(string(out))
	if len(policies) < 2 {
		t.Errorf("the process has printed %q", out)
	}
	for _, p := range policies {
		if p != strconv.Itoa(unix.SCHED_IDLE) {
			t.Errorf("a thread has the policy %q", p)
		}
	}
}
