//go:build linux

package actor

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestSockaddr(t *testing.T) {
	for _, c := range []struct{ addr, want string }{
		{"192.0.2.1:53", "02000035c00002010000000000000000"},
		{"[2001:db8::2]:443", "0a0001bb0000000020010db800000000000000000000000200000000"},
		{"[fe80::1%7]:1", "0a00000100000000fe80000000000000000000000000000107000000"},
		{"[::ffff:192.0.2.1]:80", "0a0000500000000000000000000000000000ffffc000020100000000"},
	} {
		addr := netip.MustParseAddrPort(c.addr)
		if got := SockaddrHex(addr); got != c.want {
			t.Errorf("%s: got %s, want %s", c.addr, got, c.want)
		}
		if back, err := parseSockaddr(Sockaddr(addr)); err != nil || back != addr {
			t.Errorf("%s came back as %s, %v", c.addr, back, err)
		}
	}
	if b := Sockaddr(netip.AddrPort{}); b != nil {
		t.Errorf("got %x of no address", b)
	}
	for _, b := range [][]byte{nil, {2}, {2, 0}, {10, 0, 0, 0}, make([]byte, 28)} {
		if addr, err := parseSockaddr(b); err == nil {
			t.Errorf("%x is %s", b, addr)
		}
	}
}

func TestParsersAreStrict(t *testing.T) {
	good := make([]byte, replySize)
	copy(good, []byte{0x63, 0x74, 0x6f, 0x72})
	if _, err := parseReply(good); err != nil {
		t.Errorf("good reply: %v", err)
	}
	for _, b := range [][]byte{nil, good[:47], append(slices.Clone(good), 0), make([]byte, replySize)} {
		if _, err := parseReply(b); err == nil {
			t.Errorf("%x is taken for a reply", b)
		}
		if _, err := ParseDatagram(b); err == nil {
			t.Errorf("%x is taken for a datagram", b)
		}
	}
}

// The embedded programs run anywhere: no loader, no library, no writable and executable page.
func TestProgramsAreStaticELF(t *testing.T) {
	machines := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
	for arch, machine := range machines {
		for _, name := range []string{"actor", "flood", "probe"} {
			name += "_" + arch
			f, err := elf.Open(filepath.Join("bin", name))
			if err != nil {
				t.Fatal(err)
			}
			if f.Machine != machine || f.Type != elf.ET_EXEC || f.Class != elf.ELFCLASS64 {
				t.Errorf("%s: %v %v %v", name, f.Machine, f.Type, f.Class)
			}
			entered := false
			for _, p := range f.Progs {
				if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC || p.Flags&(elf.PF_W|elf.PF_X) == elf.PF_W|elf.PF_X {
					t.Errorf("%s: segment %v", name, p.ProgHeader)
				}
				entered = entered || p.Flags&elf.PF_X != 0 && f.Entry >= p.Vaddr && f.Entry < p.Vaddr+p.Memsz
			}
			if !entered {
				t.Errorf("%s: entry %#x is in no executable segment", name, f.Entry)
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// src/build.sh leaves a hash of what it compiled.
func TestProgramsAreCurrent(t *testing.T) {
	var all bytes.Buffer
	for _, pattern := range []string{"*.c", "*.h", "build.sh"} {
		files, err := filepath.Glob(filepath.Join("src", pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v, %v", pattern, files, err)
		}
		slices.Sort(files)
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			all.Write(b)
		}
	}
	sum := sha256.Sum256(all.Bytes())
	want, err := os.ReadFile("bin/SOURCE")
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(sum[:]); got != strings.TrimSpace(string(want)) {
		t.Errorf("bin/ was compiled from other sources: run go generate (sources %s, bin/SOURCE %s)", got, want)
	}
}
