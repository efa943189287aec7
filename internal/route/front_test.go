package route

import (
	"fmt"
	"strings"
	"testing"
)

// TestRulesGoToTheFrontAndComeBack has wg-quick's rules come before ours again and again, with no moment in between that
// is without them: the kernel puts a rule without a priority before all but "local". docs/limits.md tells of the end.
func TestRulesGoToTheFrontAndComeBack(t *testing.T) {
	const world = `
link eth0
link wg0 wireguard
route ipv4 default via 192.168.1.1 dev eth0
route ipv4 192.168.1.0/24 dev eth0
route ipv4 default dev wg0 table 51820
`
	full := func(p Plan) bool {
		return strings.Contains(strings.Join(p.Warnings, "\n"), "comes before any that we could add")
	}
	ours, times := DefaultPriority, 0
	for ; ; times++ {
		wg := fmt.Sprintf("rule ipv4 %d: from all lookup main suppress_prefixlength 0\n"+
			"rule ipv4 %d: not from all fwmark 0xca6c lookup 51820\n", ours-2, ours-1)
		p := PlanFor(parseWorld(t, world+wg), DefaultConfig())
		if full(p) {
			break
		}
		if got := p.Rules[0].Priority; got != ours-4 {
			t.Fatalf("rules before ours, which have priority %d: ours get %d, want %d", ours, got, ours-4)
		}
		ours -= 4
	}
	if times < 20 {
		t.Errorf("there is room for %d times, want 20", times)
	}
	p := PlanFor(parseWorld(t, world), DefaultConfig())
	if got := p.Rules[0].Priority; got != DefaultPriority || full(p) {
		t.Errorf("once they are gone: priority %d, want %d; warnings %q", got, DefaultPriority, p.Warnings)
	}
}
