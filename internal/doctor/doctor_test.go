package doctor

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sidestep/internal/lab/labtest"
)

func report() Report {
	return Report{Version: 1, Kernel: "6.1.0", Lines: []Line{
		{Area: areaKernel, Name: "ring buffer", Detail: "telling the agent what happened"},
		{Area: areaKernel, Name: "tcx", Grade: Warn, Detail: "not there", Hint: "none"},
		{Area: areaMachine, Name: "cgroup2", Grade: Missing},
	}}
}

func TestText(t *testing.T) {
	want := `Linux 6.1.0

kernel
  ok       ring buffer  telling the agent what happened
  warn     tcx          not there
                        hint: none

machine
  missing  cgroup2

sidestep cannot work here: 1 thing missing, 1 warning
`
	if d := cmp.Diff(want, report().String()); d != "" {
		t.Errorf("text (-want +got):\n%s", d)
	}
}

func TestHealthy(t *testing.T) {
	r := report()
	if r.Healthy() {
		t.Error("healthy, though something is missing")
	}
	r.Lines = r.Lines[:2]
	if !r.Healthy() || !strings.HasSuffix(r.String(), "sidestep can work here: nothing missing, 1 warning\n") {
		t.Errorf("a warning makes it sick:\n%v", r)
	}
	r.Lines = r.Lines[:1]
	if !strings.HasSuffix(r.String(), "\nsidestep can work here\n") {
		t.Errorf("summary of:\n%v", r)
	}
}

func TestJSONComesBack(t *testing.T) {
	b, err := json.Marshal(report())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(b), `{"version":1,`) || !strings.Contains(string(b), `"grade":"missing"`) {
		t.Errorf("json %s", b)
	}
	var got Report
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(report(), got); d != "" {
		t.Errorf("after a round trip (-want +got):\n%s", d)
	}
	if err := json.Unmarshal([]byte(`{"lines":[{"grade":"bad"}]}`), &got); err == nil {
		t.Error("an unknown grade is taken")
	}
}

func TestThisMachine(t *testing.T) {
	labtest.NeedRoot(t)
	r := Examine(t.Context())
	for _, l := range r.Lines {
		if l.Grade == Missing || strings.Contains(l.Detail, "cannot tell") {
			t.Errorf("%s, %s: %v %s", l.Area, l.Name, l.Grade, l.Detail)
		}
	}
	if t.Failed() {
		t.Logf("\n%v", r)
	}
}
