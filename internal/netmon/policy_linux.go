package netmon

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Where things are in a struct xfrm_userpolicy_info, which starts with a struct xfrm_selector, and numbers that go
// with it (linux/xfrm.h).
const (
	policyDst       = 0
	policySrc       = 16
	policyFamily    = 40
	policyDstLen    = 42
	policySrcLen    = 43
	policyProto     = 44
	policyDirection = 160
	policyAction    = 161
	policyLen       = 168

	policyOut   = 1
	policyAllow = 0

	policyTemplates = 5
	policyMark      = 21
	policyInterface = 31
)

// decodePolicy returns a policy; ok is false if it is none that wraps all that this machine sends from here to there.
// One without a template lets packets pass as they are.
func decodePolicy(m []byte) (p Policy, ok bool) {
	if len(m) < policyLen || m[policyDirection] != policyOut || m[policyAction] != policyAllow || m[policyProto] != 0 {
		return Policy{}, false
	}
	size := 4
	switch binary.NativeEndian.Uint16(m[policyFamily:]) {
	case unix.AF_INET:
	case unix.AF_INET6:
		size = 16
	default:
		return Policy{}, false
	}
	p.Src = prefix(m[policySrc:policySrc+size], m[policySrcLen])
	p.Dst = prefix(m[policyDst:policyDst+size], m[policyDstLen])
	for t, v := range attributes(m[policyLen:]) {
		switch t {
		case policyTemplates:
			ok = len(v) > 0
		case policyInterface:
			p.Interface = number(v)
		case policyMark:
			if len(v) == 8 {
				p.Mark, p.Mask = number(v[:4]), number(v[4:])
			}
		}
	}
	return p, ok && p.Src.IsValid() && p.Dst.IsValid()
}
