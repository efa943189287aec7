package netmon

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// String writes the rule the way `ip rule` does, with the family in front.
func (r Rule) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %d:", r.Family, r.Priority)
	if r.Invert {
		b.WriteString(" not")
	}
	b.WriteString(" from " + prefixText(r.Src, "all"))
	if r.Dst.IsValid() {
		b.WriteString(" to " + prefixText(r.Dst, "all"))
	}
	if r.Mask != 0 {
		fmt.Fprintf(&b, " fwmark %#x", r.Mark)
	}
	if r.Mask != 0 && r.Mask != ^uint32(0) {
		fmt.Fprintf(&b, "/%#x", r.Mask)
	}
	optional(&b, "iif", r.IIF)
	optional(&b, "oif", r.OIF)
	if r.Narrow {
		b.WriteString(" ...")
	}
	b.WriteString(" " + r.verb())
	if r.SuppressPrefixLen >= 0 {
		fmt.Fprintf(&b, " suppress_prefixlength %d", r.SuppressPrefixLen)
	}
	if r.Protocol != 0 {
		fmt.Fprintf(&b, " proto %d", r.Protocol)
	}
	return b.String()
}

func (r Rule) verb() string {
	switch r.Action {
	case Lookup:
		if r.L3MDev {
			return "lookup [l3mdev-table]"
		}
		return "lookup " + TableName(r.Table)
	case Goto:
		return fmt.Sprintf("goto %d", r.Target)
	case Nop:
		return "nop"
	case RuleBlackhole:
		return "blackhole"
	case RuleUnreachable:
		return "unreachable"
	case RuleProhibit:
		return "prohibit"
	}
	return fmt.Sprintf("action %d", r.Action)
}

// Text writes the route the way `ip route` does, with the family in front. The name of a link comes from
// name; nil gives "if" and the index.
func (r Route) Text(name func(index int) string) string {
	if name == nil {
		name = func(index int) string { return "if" + strconv.Itoa(index) }
	}
	var b strings.Builder
	b.WriteString(r.Family().String() + " ")
	if r.Type != Unicast {
		b.WriteString(r.Type.String() + " ")
	}
	b.WriteString(prefixText(r.Dst, "default"))
	if r.From.IsValid() {
		fmt.Fprintf(&b, " from %s", r.From)
	}
	if len(r.Nexthops) == 1 {
		b.WriteString(r.Nexthops[0].text(name))
	}
	b.WriteString(" table " + TableName(r.Table))
	r.writeAttributes(&b)
	if len(r.Nexthops) > 1 {
		for _, nh := range r.Nexthops {
			fmt.Fprintf(&b, " nexthop%s weight %d", nh.text(name), nh.Weight)
		}
	}
	return b.String()
}

func (r Route) writeAttributes(b *strings.Builder) {
	fmt.Fprintf(b, " proto %d", r.Protocol)
	if r.Scope != 0 {
		fmt.Fprintf(b, " scope %d", r.Scope)
	}
	if r.Src.IsValid() {
		fmt.Fprintf(b, " src %s", r.Src)
	}
	if r.TOS != 0 {
		fmt.Fprintf(b, " tos %#x", r.TOS)
	}
	if r.Metric != 0 {
		fmt.Fprintf(b, " metric %d", r.Metric)
	}
	if r.Pref != 0 {
		fmt.Fprintf(b, " pref %d", r.Pref)
	}
	if r.Metrics != "" {
		fmt.Fprintf(b, " metrics %x", r.Metrics)
	}
	if r.Encap {
		b.WriteString(" encap")
	}
}

func (n Nexthop) text(name func(int) string) string {
	var b strings.Builder
	if n.Gateway.IsValid() {
		fmt.Fprintf(&b, " via %s", n.Gateway)
	}
	if n.OIF != 0 {
		b.WriteString(" dev " + name(n.OIF))
	}
	if n.OnLink {
		b.WriteString(" onlink")
	}
	if n.Dead {
		b.WriteString(" dead")
	}
	return b.String()
}

// String writes the policy the way `ip xfrm policy` does.
func (p Policy) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "src %s dst %s", p.Src, p.Dst)
	if p.Mask != 0 {
		fmt.Fprintf(&b, " mark %#x/%#x", p.Mark, p.Mask)
	}
	if p.Interface != 0 {
		fmt.Fprintf(&b, " if_id %#x", p.Interface)
	}
	return b.String()
}

// String returns the name `ip route` has for the type.
func (t RouteType) String() string {
	names := [...]string{"none", "unicast", "local", "broadcast", "anycast", "multicast", "blackhole",
		"unreachable", "prohibit", "throw"}
	if int(t) < len(names) {
		return names[t]
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// TableName returns the number of a table, or the name of one of the kernel's three.
func TableName(table uint32) string {
	switch table {
	case TableDefault:
		return "default"
	case TableMain:
		return "main"
	case TableLocal:
		return "local"
	}
	return strconv.FormatUint(uint64(table), 10)
}

func prefixText(p netip.Prefix, whole string) string {
	switch {
	case !p.IsValid() || p.Bits() == 0:
		return whole
	case p.IsSingleIP():
		return p.Addr().String()
	}
	return p.String()
}

func optional(b *strings.Builder, key, value string) {
	if value != "" {
		b.WriteString(" " + key + " " + value)
	}
}
