package main

import (
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// console is what a guest prints, shortened.
const console = "\x1bcSeaBIOS\r\n" +
	"@@ kernel 6.1.0-56-cloud-amd64\r\n" +
	"@@ note insert sctp.ko: no such file\r\n" +
	"@@ step doctor\r\n  ok  tcx\r\n@@ end doctor 2.0 ok\r\n" +
	"@@ has . TestOne\r\n@@ has . TestTwo\r\n@@ has . TestThree\r\n@@ has . TestFour\r\n" +
	"@@ step .\r\n" +
	"--- PASS: TestOne (0.10s)\r\n    --- FAIL: TestOne/sub (0.10s)\r\n" +
	"    a_test.go:9: this kernel has no UDP-Lite\r\n    --- SKIP: TestOne/lite (0.10s)\r\n" +
	"[   12.5] WARNING: CPU: 1 PID: 77 at kernel/bpf/verifier.c:1\r\n" +
	"--- FAIL: TestTwo (0.10s)\r\n    a_test.go:9: this kernel has no tcx\r\n--- SKIP: TestThree (0.00s)\r\n=== CONT  TestSix\r\n    a_test.go:9: no time\r\n--- SKIP: TestFive (0.00s)\r\n" +
	"@@ end . 3.0 exit status 1\r\n"

func readResult(t *testing.T, k kernel, text string) *result {
	t.Helper()
	r := &result{kernel: k}
	if err := r.read(strings.NewReader(text), io.Discard, io.Discard); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestOnlyALackOfTheKernelOrOfAProgramExcusesASkip(t *testing.T) {
	r := readResult(t, kernel{Tests: all}, "@@ kernel 6.1\r\n@@ step .\r\n"+
		"    a_test.go:9: needs root: run it as root\r\n--- SKIP: TestOne (0.00s)\r\n"+
		"    a_test.go:9: needs openvpn: apt-get install openvpn\r\n--- SKIP: TestTwo (0.00s)\r\n"+
		"    a_test.go:9: this kernel has no tcx\r\n--- SKIP: TestThree (0.00s)\r\n@@ end . 1.0 ok\r\n@@ off\r\n")
	want := []string{". TestTwo: no openvpn", ". TestThree: no tcx"}
	if len(r.failed) != 1 || !strings.HasPrefix(r.failed[0], ". TestOne was skipped") || !slices.Equal(r.skipped, want) {
		t.Errorf("failed %q, skipped %q, want TestOne, %q", r.failed, r.skipped, want)
	}
}

func TestConsoleBecomesARow(t *testing.T) {
	r := readResult(t, kernel{System: "Debian 12", Name: "d", Arch: "amd64", Tests: all}, console+"@@ off\r\n")
	want := map[string][]string{
		"failed": {". TestTwo", ". TestFive was skipped, and not for want of anything in the kernel"}, "skipped": {". TestThree: no tcx"}, "left": {". TestFour"},
		"notes": {"insert sctp.ko: no such file", "[   12.5] WARNING: CPU: 1 PID: 77 at kernel/bpf/verifier.c:1"},
	}
	got := map[string][]string{"failed": r.failed, "skipped": r.skipped, "left": r.left, "notes": r.notes}
	if d := cmp.Diff(want, got); d != "" || r.passed != 2 {
		t.Errorf("%d passed, want 2 (-want +got):\n%s", r.passed, d)
	}
	const row = "| Debian 12 (`d`) | 6.1.0-56-cloud-amd64 | amd64 | all | fails | 2 | 2 | 1 | 2026-11-22 |\n"
	if got := r.row(time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)); got != row {
		t.Errorf("row %q, want %q", got, row)
	}
}

func TestGuestThatDiesFails(t *testing.T) {
	for text, want := range map[string]string{
		"Booting\r\n":                       "the guest did not boot",
		"@@ kernel 6.1\r\n@@ step demo\r\n": "demo: the guest died",
		"@@ kernel 6.1\r\n":                 "the guest died",
		"@@ kernel 6.1\r\n@@ step .\r\n@@ end . 1 signal: killed\r\n@@ off\r\n": ".: signal: killed",
	} {
		if r := readResult(t, kernel{Tests: all}, text); len(r.failed) != 1 || r.failed[0] != want {
			t.Errorf("%q: failed %q, want %q", text, r.failed, want)
		}
	}
}

func TestOldKernelMustBeRefused(t *testing.T) {
	const head = "@@ kernel 5.10\r\n@@ step daemon\r\nsidestep: this kernel lacks much\r\n"
	k := kernel{Tests: refuse}
	if r := readResult(t, k, head+"@@ end daemon 1.0 exit status 1\r\n@@ off\r\n"); !r.good() || r.said != "this kernel lacks much" {
		t.Errorf("failed %q, said %q", r.failed, r.said)
	}
	if r := readResult(t, k, head+"@@ end daemon 1.0 ok\r\n@@ off\r\n"); r.good() {
		t.Error("a daemon that runs on a kernel that is too old is good")
	}
}

func TestNewestPackageIsTheOneWithTheHighestNumbers(t *testing.T) {
	names := []string{"linux-image-6.12.95+deb13-cloud-amd64", "linux-image-6.12.117+deb13-cloud-amd64", "linux-image-6.12.9+deb13-cloud-amd64"}
	if got := newestOf(names); got != names[1] {
		t.Errorf("newest %s, want %s", got, names[1])
	}
}

func TestRowsOfKernelsThatWereNotRunStay(t *testing.T) {
	first, last := kernels[0], kernels[len(kernels)-1]
	old := "| " + first.label() + " | old |\n| " + last.label() + " | old |\n"
	got := rows(old, []*result{{kernel: last, version: "new"}}, time.Time{})
	if len(got) != 2 || !strings.HasSuffix(got[0], "| old |\n") || !strings.Contains(got[1], "| new |") {
		t.Errorf("rows %q", got)
	}
}
