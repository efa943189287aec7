package packaging_test

import (
	"bytes"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sidestep/internal/config"
)

// A unit holds the values of each option of the service's unit, a line each.
type unit map[string][]string

func readUnit(t testing.TB) unit {
	t.Helper()
	text, err := os.ReadFile("sidestep.service")
	if err != nil {
		t.Fatal(err)
	}
	u := unit{}
	for line := range strings.Lines(string(text)) {
		option, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if ok && !strings.HasPrefix(option, "#") {
			u[option] = append(u[option], value)
		}
	}
	return u
}

// capabilityNumbers are those of linux/capability.h.
var capabilityNumbers = map[string]uintptr{
	"CAP_BPF":             unix.CAP_BPF,
	"CAP_PERFMON":         unix.CAP_PERFMON,
	"CAP_NET_ADMIN":       unix.CAP_NET_ADMIN,
	"CAP_SYS_ADMIN":       unix.CAP_SYS_ADMIN,
	"CAP_SYS_PTRACE":      unix.CAP_SYS_PTRACE,
	"CAP_DAC_OVERRIDE":    unix.CAP_DAC_OVERRIDE,
	"CAP_DAC_READ_SEARCH": unix.CAP_DAC_READ_SEARCH,
}

// capabilities are those that the unit gives the daemon.
func (u unit) capabilities(t testing.TB) []string {
	t.Helper()
	names := strings.Fields(strings.Join(u["CapabilityBoundingSet"], " "))
	for _, name := range names {
		if _, ok := capabilityNumbers[name]; !ok {
			t.Fatalf("the unit has a capability %q, of which the test knows nothing", name)
		}
	}
	return names
}

// TestUnitHidesNothing is about options that would make the daemon see other files, processes or networks than the
// programs that it judges, or take away what is in force.
func TestUnitHidesNothing(t *testing.T) {
	u := readUnit(t)
	harmful := regexp.MustCompile(`^(Private|Inaccessible|Temporary|Bind|Root|Mount|Exec|NoExec|Extension|ProtectProc$|ProcSubset$|` +
		`ProtectKernelTunables$|RuntimeDirectory|ExecStopPost|MemoryMax|TasksMax|DynamicUser)`)
	for _, option := range slices.Sorted(maps.Keys(u)) {
		if harmful.MatchString(option) && option != "ExecStart" {
			t.Errorf("the unit has %s=%s", option, u[option])
		}
	}
	if got := u["ProtectHome"]; !slices.Equal(got, []string{"read-only"}) {
		t.Errorf("ProtectHome=%s, want read-only", got)
	}
}

// TestUnitKeepsWhatIsInForce is about every end of the daemon but one: only a stop takes back what is in force.
func TestUnitKeepsWhatIsInForce(t *testing.T) {
	u := readUnit(t)
	for option, want := range map[string]string{
		"RestartKillSignal": "SIGKILL", "TimeoutStartFailureMode": "kill", "Restart": "on-failure",
	} {
		if got := u[option]; !slices.Equal(got, []string{want}) {
			t.Errorf("%s=%s, want %s", option, got, want)
		}
	}
	for _, option := range []string{"KillSignal", "ExecStop", "ExecReload", "FinalKillSignal"} {
		if got, ok := u[option]; ok {
			t.Errorf("the unit has %s=%s", option, got)
		}
	}
}

// TestExampleConfiguration is about the file as it is installed, and about each example in it.
func TestExampleConfiguration(t *testing.T) {
	text, err := os.ReadFile("sidestep.toml")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := config.Parse("sidestep.toml", text); err != nil {
		t.Error(err)
	}
	examples := regexp.MustCompile(`(?m)^#(\w+ = )`).ReplaceAll(text, []byte("$1"))
	if bytes.Equal(examples, text) {
		t.Error("there is no example")
	}
	if _, err := config.Parse("sidestep.toml with its examples", examples); err != nil {
		t.Error(err)
	}
}
