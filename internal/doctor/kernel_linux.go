package doctor

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// A Capability is something that a kernel may offer.
type Capability struct {
	Name string
	// Since is the first upstream kernel that has it. Distributions may have it earlier, or never.
	Since string
	// For says what sidestep does with it, Without what happens when it is not there.
	For, Without string
	// Needed: without it sidestep does not start.
	Needed bool

	// probe returns nil if the kernel has it, an error that wraps ebpf.ErrNotSupported if it does not, and any
	// other error if that cannot be told.
	probe func() error
}

// Minimum is the oldest kernel that has everything needed and passes every test (docs/kernels.md).
const Minimum = "6.1"

// Refusal says in a sentence what the kernel lacks that sidestep needs. It is nil if nothing is known to be missing, or if
// it may be this process's rights that are. To find out takes a moment: everything is tried.
func Refusal() error {
	if (host{root: "/"}).privileges().Grade != OK {
		return nil
	}
	return refusal(release(), Capabilities())
}

func refusal(kernel string, table []Capability) error {
	var lacks []string
	for _, c := range table {
		if c.Needed && errors.Is(c.probe(), ebpf.ErrNotSupported) {
			lacks = append(lacks, c.Name)
		}
	}
	const most = 3
	switch n := len(lacks); {
	case n == 0:
		return nil
	case n > most:
		lacks = append(lacks[:most], fmt.Sprintf("and %d more", n-most))
	}
	return fmt.Errorf("this kernel (Linux %s) lacks what sidestep needs: %s; Linux %s and later have it, unless built or locked down otherwise", kernel, strings.Join(lacks, ", "), Minimum)
}

// Capabilities returns the table of what sidestep uses, most fundamental first.
func Capabilities() []Capability {
	return append(trackers(), append(hooks(), extras()...)...)
}

// Offers returns nil if the kernel has the capability of that name in the table.
func Offers(name string) error {
	for _, c := range Capabilities() {
		if c.Name == name {
			return c.probe()
		}
	}
	return fmt.Errorf("no capability is called %q", name)
}

// trackers are for knowing which process is which.
func trackers() []Capability {
	return []Capability{
		{Name: "type information (BTF)", Since: "5.4", Needed: true, probe: haveBTF,
			For: "reading the kernel's structures", Without: "no program can look at processes; needs CONFIG_DEBUG_INFO_BTF"},
		{Name: "tp_btf sched_process_exec", Since: "5.5", Needed: true, probe: execTracepoint.load,
			For: "classifying a program before its first instruction", Without: "programs cannot be recognised in time"},
		{Name: "tp_btf task_newtask", Since: "5.5", Needed: true, probe: tracepoint("task_newtask").load,
			For: "labelling children before they run", Without: "children would start without a label"},
		{Name: "tp_btf sched_process_fork", Since: "5.5", Needed: true, probe: tracepoint("sched_process_fork").load,
			For: "the same, should the first be missed", Without: "children would start without a label"},
		{Name: "tp_btf sched_process_exit", Since: "5.5", Needed: true, probe: tracepoint("sched_process_exit").load,
			For: "forgetting processes", Without: "labels would pile up"},
		{Name: "task iterator", Since: "5.8", Needed: true, probe: taskIterator.load,
			For: "labelling what already runs", Without: "running programs would keep their side"},
		{Name: "file iterator", Since: "5.8", Needed: true, probe: fileIterator.load,
			For: "finding open sockets", Without: "open sockets could not be noted"},
		{Name: "bpf_sock_from_file", Since: "5.11", Needed: true, probe: fileIterator.helper(asm.FnSockFromFile),
			For: "finding open sockets", Without: "open sockets could not be noted"},
		{Name: "bpf_sk_storage_get (iterator)", Since: "5.11", Needed: true, probe: fileIterator.helper(asm.FnSkStorageGet),
			For: "noting whose an open socket is", Without: "open sockets could not be noted"},
		{Name: "bpf_loop (tp_btf)", Since: "5.17", Needed: true, probe: execTracepoint.helper(asm.FnLoop),
			For: "walking a path", Without: "programs cannot be recognised by their path"},
		{Name: "bpf_probe_read_kernel", Since: "5.5", Needed: true, probe: execTracepoint.helper(asm.FnProbeReadKernel),
			For: "reading names", Without: "lockdown=confidentiality takes it away: programs cannot be recognised by their path"},
		{Name: "ring buffer", Since: "5.8", Needed: true, probe: haveMap(ebpf.RingBuf),
			For: "telling the agent what happened", Without: "the agent would be blind"},
	}
}

// hooks are for deciding about sockets and packets.
func hooks() []Capability {
	return []Capability{
		{Name: "cgroup/sock_create", Since: "4.10", Needed: true, probe: sockCreate.load,
			For: "deciding when a socket is made", Without: "sockets cannot be put on a side"},
		{Name: "socket mark", Since: "4.15", Needed: true, probe: sockCreate.body(storeMark()...).load,
			For: "choosing the route of a socket", Without: "sockets cannot be put on a side"},
		{Name: "bpf_get_current_task_btf (socket)", Since: "5.15", Needed: true,
			probe: sockCreate.helper(asm.FnGetCurrentTaskBtf),
			For:   "recognising the caller on the spot", Without: "a lost event would misplace a socket"},
		{Name: "bpf_loop (socket)", Since: "5.17", Needed: true, probe: sockCreate.helper(asm.FnLoop),
			For: "recognising the caller on the spot", Without: "a lost event would misplace a socket"},
		{Name: "bpf_get_netns_cookie (socket)", Since: "5.7", Needed: true, probe: sockCreate.helper(asm.FnGetNetnsCookie),
			For: "leaving containers alone", Without: "sockets of other network namespaces would be touched"},
		{Name: "bpf_set_retval (socket)", Since: "6.1", Needed: true, probe: sockCreate.helper(asm.FnSetRetval),
			For: "refusing a protocol with its own error", Without: "programs would not fall back from MPTCP to TCP"},
		{Name: "socket storage", Since: "5.2", Needed: true, probe: haveMap(ebpf.SkStorage),
			For: "knowing whose a socket is", Without: "the guard cannot tell sockets apart"},
		{Name: "bpf_sk_storage_get (socket)", Since: "5.2", Needed: true, probe: sockCreate.helper(asm.FnSkStorageGet),
			For: "knowing whose a socket is", Without: "the guard cannot tell sockets apart"},
		{Name: "cgroup_skb", Since: "4.10", Needed: true, probe: guard.load,
			For: "the guard: the last look at a packet", Without: "a packet on the wrong side would not be stopped"},
		{Name: "bpf_sk_storage_get (guard)", Since: "5.2", Needed: true, probe: guard.helper(asm.FnSkStorageGet),
			For: "the guard: the last look at a packet", Without: "a packet on the wrong side would not be stopped"},
		{Name: "cgroup/bind, connect, sendmsg", Since: "4.18", Needed: true, probe: sendMessage.load,
			For: "holding sockets that change hands to a side", Without: "handed-over sockets could not be told"},
		{Name: "bpf_setsockopt (connect)", Since: "5.8", Needed: true, probe: connect.helper(asm.FnSetsockopt),
			For: "moving unused sockets to another side", Without: "sockets made before a change would stay where they were"},
		{Name: "cgroup/setsockopt", Since: "5.3", Needed: true, probe: setOption.load,
			For: "joining groups on the uplink", Without: "groups would be joined through the tunnel"},
		{Name: "TCP and UDP iterators", Since: "5.9", Needed: true, probe: tcpIterator.helper(asm.FnSetsockopt),
			For: "finding connections on the wrong side, moving listeners", Without: "old connections would only be stopped"},
		{Name: "LPM trie", Since: "4.11", Needed: true, probe: haveMap(ebpf.LPMTrie),
			For: "knowing what is local", Without: "local connections could not be spared"},
		{Name: "cgroup links", Since: "5.7", Needed: true, probe: haveCgroupLinks,
			For: "going on when the agent is gone", Without: "enforcement would end with the agent"},
	}
}

// extras make things better where they are there.
func extras() []Capability {
	return []Capability{
		{Name: "bpf_get_netns_cookie (guard)", Since: "6.15", probe: guard.helper(asm.FnGetNetnsCookie),
			For:     "asking for a packet's network namespace",
			Without: "the guard goes by the socket's note, and for the kernel's own answers by the address alone; no strict mode"},
		{Name: "netfilter programs", Since: "6.4", probe: answers.load,
			For:     "keeping TCP resets out of a tunnel that was made a moment ago",
			Without: "resets can enter a tunnel that the daemon has not seen yet; needs CONFIG_NETFILTER_BPF_LINK"},
		{Name: "tcx", Since: "6.6", probe: haveTCX,
			For:     "guarding the door of a tunnel",
			Without: "packet sockets can enter a tunnel, and IPv6 resets where netfilter has no programs"},
		{Name: "closing sockets (sock_diag)", Since: "4.5", probe: haveDestroy,
			For:     "telling programs at once that a connection is cut",
			Without: "connections on the wrong side are stopped, and programs notice by timeout; needs CONFIG_INET_DIAG_DESTROY"},
	}
}

// line tries the capability. A process without privileges learns little by that.
func (c Capability) line(privileged bool) Line {
	l := Line{Area: areaKernel, Name: c.Name}
	err := c.probe()
	switch {
	case err == nil:
		l.Detail = c.For
		return l
	case errors.Is(err, unix.EPERM) && !privileged:
		l.Grade, l.Detail = Warn, "cannot tell without privileges"
		return l
	case errors.Is(err, ebpf.ErrNotSupported):
		l.Detail = fmt.Sprintf("%s (Linux has it since %s)", c.Without, c.Since)
	default:
		l.Detail = fmt.Sprintf("%s: %v", c.Without, err)
	}
	l.Grade = Warn
	if c.Needed {
		l.Grade = Missing
	}
	return l
}
