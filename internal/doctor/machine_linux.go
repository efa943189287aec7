package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf/features"

	"sidestep/internal/mountinfo"
)

// A host is where the files are that tell about the machine: "/" except in tests.
type host struct{ root string }

// read returns the trimmed text of a file.
func (h host) read(name string) (string, error) {
	b, err := os.ReadFile(path.Join(h.root, name))
	return strings.TrimSpace(string(b)), err
}

// machine looks at what is set up on the machine, apart from its network.
func (h host) machine() []Line {
	mounts, err := mountinfo.Read()
	lines := []Line{h.privileges(), h.namespaces(), cgroup2(mounts, err), h.bpffs(mounts), netCls(mounts, modernClassid())}
	lines = slices.Concat(lines, foreign(mounts), []Line{h.lockdown(), h.unprivileged()})
	for i := range lines {
		lines[i].Area = areaMachine
	}
	return lines
}

// A capability of a process is a bit of CapEff.
type capability struct {
	name string
	bit  uint
	// instead is a capability that includes this one, 0 for none.
	instead uint
}

// capSysAdmin includes what CAP_BPF and CAP_PERFMON were split from.
const capSysAdmin = 21

// privileges lists what the process may do.
func (h host) privileges() Line {
	l := Line{Name: "privileges"}
	status, err := h.read("/proc/thread-self/status")
	if err != nil {
		l.Grade, l.Detail = Warn, fmt.Sprintf("cannot tell: %v", err)
		return l
	}
	_, rest, _ := strings.Cut(status, "\nCapEff:")
	word, _, _ := strings.Cut(strings.TrimSpace(rest), "\n")
	have, err := strconv.ParseUint(word, 16, 64)
	if err != nil {
		l.Grade, l.Detail = Warn, fmt.Sprintf("cannot tell: %v", err)
		return l
	}
	var lacks []string
	for _, c := range []capability{
		{"CAP_BPF", 39, capSysAdmin}, {"CAP_PERFMON", 38, capSysAdmin}, {"CAP_NET_ADMIN", 12, 0},
		{"CAP_SYS_PTRACE", 19, 0}, {"CAP_DAC_READ_SEARCH", 2, 0},
	} {
		if have&(1<<c.bit) == 0 && (c.instead == 0 || have&(1<<c.instead) == 0) {
			lacks = append(lacks, c.name)
		}
	}
	if len(lacks) > 0 {
		l.Grade, l.Detail, l.Hint = Missing, "lacks "+strings.Join(lacks, ", "), "run `sudo sidestep doctor`"
		return l
	}
	l.Detail = "CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH"
	return l
}

// namespaces says whether the process sees the whole machine. The numbers are those of the first namespace of
// each kind (include/linux/proc_ns.h).
func (h host) namespaces() Line {
	l := Line{Name: "namespaces", Detail: "those of the machine"}
	var own []string
	for _, ns := range []struct{ kind, first string }{
		{"cgroup", "cgroup:[4026531835]"}, {"pid", "pid:[4026531836]"}, {"user", "user:[4026531837]"},
	} {
		link, err := os.Readlink(path.Join(h.root, "/proc/self/ns", ns.kind))
		if err == nil && link != ns.first {
			own = append(own, ns.kind)
		}
	}
	if len(own) > 0 {
		l.Grade = Warn
		l.Detail = fmt.Sprintf("in a container: its own %s namespace", strings.Join(own, " and "))
		l.Hint = "programs outside the container are not seen; run sidestep on the machine itself"
	}
	return l
}

// cgroup2 says where the hooks are attached.
func cgroup2(mounts mountinfo.Table, err error) Line {
	l := Line{Name: "cgroup2"}
	switch root, ok := mounts.Cgroup2Root(); {
	case ok:
		l.Detail = "mounted on " + root
	case err != nil:
		l.Grade, l.Detail = Missing, err.Error()
	default:
		l.Grade, l.Detail = Missing, mountinfo.ErrNoCgroup2.Error()
		l.Hint = "mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified"
	}
	return l
}

// bpffs says where enforcement is kept while no agent runs.
func (h host) bpffs(mounts mountinfo.Table) Line {
	l := Line{Name: "bpf filesystem"}
	if point, ok := mounts.BPFFS(); ok {
		l.Detail = "mounted on " + point
		return l
	}
	types, err := h.read("/proc/filesystems")
	if err == nil && !slices.Contains(strings.Fields(types), "bpf") {
		l.Grade, l.Detail = Missing, "this kernel has none"
		return l
	}
	l.Grade, l.Detail = Warn, "not mounted, but it can be"
	l.Hint = "mount -t bpf bpf /sys/fs/bpf"
	return l
}

// modernClassid reports whether a socket can have a net_cls class and a cgroup2 at once.
func modernClassid() bool {
	v, err := features.LinuxVersionCode()
	return err == nil && v >= 5<<16|15<<8
}

// netCls tells of the older way to split tunnels.
func netCls(mounts mountinfo.Table, modern bool) Line {
	l := Line{Name: "net_cls", Detail: "not mounted"}
	for _, m := range mounts.Mounts() {
		if m.FSType == "cgroup" && (m.Option("net_cls") || m.Option("net_prio")) {
			l.Detail = fmt.Sprintf("mounted on %s: some VPN clients split tunnels with it", m.Point)
			if !modern {
				l.Grade = Warn
				l.Hint = "on this kernel, sockets lose their cgroup once a class is used; hooks on the root are not affected"
			}
			return l
		}
	}
	return l
}

// lockdown says what the kernel withholds even from root.
func (h host) lockdown() Line {
	l := Line{Name: "lockdown", Detail: "off"}
	text, err := h.read("/sys/kernel/security/lockdown")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return l
	case err != nil:
		l.Grade, l.Detail = Warn, fmt.Sprintf("cannot tell: %v", err)
		return l
	}
	// none [integrity] confidentiality
	_, rest, _ := strings.Cut(text, "[")
	mode, _, _ := strings.Cut(rest, "]")
	switch mode {
	case "none":
	case "confidentiality":
		l.Grade, l.Detail = Warn, "confidentiality: bpf_probe_read_kernel is not allowed"
		l.Hint = "boot with lockdown=integrity"
	default:
		l.Detail = mode
	}
	return l
}

// unprivileged says whether everybody may load BPF programs.
func (h host) unprivileged() Line {
	l := Line{Name: "unprivileged BPF", Detail: "off"}
	text, err := h.read("/proc/sys/kernel/unprivileged_bpf_disabled")
	if err == nil && text == "0" {
		l.Grade, l.Detail = Warn, "on: any user may load BPF programs"
		l.Hint = "sysctl kernel.unprivileged_bpf_disabled=1"
	}
	return l
}
