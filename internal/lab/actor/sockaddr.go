//go:build linux

package actor

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// Sockaddr returns the bytes of the struct sockaddr_in or sockaddr_in6 that means addr. A zone is an interface of the
// caller's network namespace, by name or number; the zero AddrPort gives none.
func Sockaddr(addr netip.AddrPort) []byte {
	if !addr.IsValid() {
		return nil
	}
	ip := addr.Addr()
	if ip.Is4() {
		b := make([]byte, unix.SizeofSockaddrInet4)
		binary.NativeEndian.PutUint16(b, unix.AF_INET)
		binary.BigEndian.PutUint16(b[2:], addr.Port())
		copy(b[4:], ip.AsSlice())
		return b
	}
	b := make([]byte, unix.SizeofSockaddrInet6)
	binary.NativeEndian.PutUint16(b, unix.AF_INET6)
	binary.BigEndian.PutUint16(b[2:], addr.Port())
	copy(b[8:], ip.AsSlice())
	binary.NativeEndian.PutUint32(b[24:], zoneIndex(ip.Zone()))
	return b
}

// SockaddrHex is [Sockaddr] as the probe wants it on its command line.
func SockaddrHex(addr netip.AddrPort) string {
	return hex.EncodeToString(Sockaddr(addr))
}

func zoneIndex(zone string) uint32 {
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n)
	}
	if link, err := net.InterfaceByName(zone); err == nil {
		return uint32(link.Index)
	}
	return 0
}

func parseSockaddr(b []byte) (netip.AddrPort, error) {
	if len(b) < 2 {
		return netip.AddrPort{}, fmt.Errorf("socket address of %d bytes", len(b))
	}
	switch family := binary.NativeEndian.Uint16(b); {
	case family == unix.AF_INET && len(b) >= unix.SizeofSockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), binary.BigEndian.Uint16(b[2:])), nil
	case family == unix.AF_INET6 && len(b) >= unix.SizeofSockaddrInet6:
		ip := netip.AddrFrom16([16]byte(b[8:24]))
		if scope := binary.NativeEndian.Uint32(b[24:]); scope != 0 {
			ip = ip.WithZone(strconv.FormatUint(uint64(scope), 10))
		}
		return netip.AddrPortFrom(ip, binary.BigEndian.Uint16(b[2:])), nil
	default:
		return netip.AddrPort{}, fmt.Errorf("socket address of family %d and %d bytes", family, len(b))
	}
}
