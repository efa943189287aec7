package check

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// snapLength is how much of a packet is looked at.
const snapLength = 256

// The instructions that the filter needs. Offsets into a packet begin at its network header, those of indexed loads
// at its transport header, which X points at.
func loadByte(at uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: at}
}
func loadByteX(at uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_IND, K: at}
}
func loadWordX(at uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_IND, K: at}
}
func alu(op uint16, k uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_ALU | op | unix.BPF_K, K: k}
}
func ifEqual(k uint32, yes, no uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: k, Jt: yes, Jf: no}
}
func jump(by uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: by} }
func ret(length uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: length}
}

// filter passes packets that leave and may be probes: TCP's first packets, and datagrams that have first where a label
// begins. What else leaves, however much, costs nothing but this.
func filter(first [4]byte) []unix.SockFilter {
	const (
		packetType = 0xfffff000 + 4 // SKF_AD_OFF + SKF_AD_PKTTYPE, linux/filter.h
		flags      = 13             // in TCP's header
		syn, heed  = 0x02, 0x17     // of FIN, SYN, RST and ACK
	)
	word := binary.BigEndian.Uint32(first[:])
	return []unix.SockFilter{
		0:    loadByte(packetType),
		1:    ifEqual(unix.PACKET_OUTGOING, 0, drop-2),
		2:    loadByte(0),
		3:    alu(unix.BPF_RSH, 4),
		4:    ifEqual(4, 0, 3),
		5:    {Code: unix.BPF_LDX | unix.BPF_B | unix.BPF_MSH, K: 0}, // X = the length of IPv4's header
		6:    loadByte(9),
		7:    jump(3),
		8:    ifEqual(6, 0, drop-9),
		9:    {Code: unix.BPF_LDX | unix.BPF_W | unix.BPF_IMM, K: ip6Header},
		10:   loadByte(6),
		11:   ifEqual(unix.IPPROTO_TCP, 0, 3),
		12:   loadByteX(flags),
		13:   alu(unix.BPF_AND, heed),
		14:   ifEqual(syn, pass-15, drop-15),
		15:   ifEqual(unix.IPPROTO_UDP, 0, drop-16),
		16:   loadWordX(uint32(udpHeader + labelAt(UDP))),
		17:   ifEqual(word, pass-18, 0),
		18:   loadWordX(uint32(udpHeader + labelAt(DNS))),
		19:   ifEqual(word, pass-20, drop-20),
		pass: ret(snapLength),
		drop: ret(0),
	}
}

// Where the filter ends.
const pass, drop = 20, 21
