package identity

import (
	"encoding/binary"
	"strings"

	"github.com/dchest/siphash"
)

// What a key stands for; the datapath's C knows the same numbers.
const (
	kindFile = 1
	kindDir  = 2
)

// A Key is what the datapath looks up: a keyed hash of a [File] and of whether it is a file or a directory.
type Key [16]byte

// A Hasher makes keys. Its seed is random, so nobody who chooses file names can make two of them collide.
//
// The hash is SipHash-2-4 with 128 bits of result, over a message that the datapath can build while it climbs
// from a dentry to the root of its superblock:
//
//	/usr/bin/curl on device 254:0, a file:
//	"curl" 0 0 0 0 | "bin" 0 0 0 0 0 | "usr" 0 0 0 0 0 | 00 00 e0 0f 01 00 00 00
//	 leaf                                root            device      kind
//
// Each name is followed by at least one NUL and by as many as reach the next multiple of eight. The last word is
// little endian: the device in the lower half, 1 for a file and 2 for a directory in the upper half. A Key is the
// two halves of the result, each little endian.
type Hasher struct {
	k0, k1 uint64
}

// NewHasher returns a Hasher with this seed.
func NewHasher(seed [16]byte) Hasher {
	return Hasher{binary.LittleEndian.Uint64(seed[:8]), binary.LittleEndian.Uint64(seed[8:])}
}

// File returns the key of f as a file.
func (h Hasher) File(f File) Key { return h.key(f, kindFile) }

// Dir returns the key of f as a directory.
func (h Hasher) Dir(f File) Key { return h.key(f, kindDir) }

// Name returns the hash of a name alone: what the datapath looks up before it pays for a climb.
func (h Hasher) Name(name string) uint64 {
	h1, _ := siphash.Hash128(h.k0, h.k1, appendName(nil, name))
	return h1
}

func (h Hasher) key(f File, kind uint64) Key {
	h1, h2 := siphash.Hash128(h.k0, h.k1, message(f, kind))
	var k Key
	binary.LittleEndian.PutUint64(k[:8], h1)
	binary.LittleEndian.PutUint64(k[8:], h2)
	return k
}

// message is what a key is the hash of.
func message(f File, kind uint64) []byte {
	b := make([]byte, 0, 2*len(f.Path)+16)
	rest := f.Path
	for rest != "" {
		i := strings.LastIndexByte(rest, '/')
		if name := rest[i+1:]; name != "" {
			b = appendName(b, name)
		}
		rest = rest[:max(i, 0)]
	}
	return binary.LittleEndian.AppendUint64(b, uint64(f.Dev)|kind<<32)
}

// appendName appends a name with its NULs. b is a multiple of eight bytes long, before and after.
func appendName(b []byte, name string) []byte {
	b = append(b, name...)
	return append(b, make([]byte, 8-len(name)%8)...)
}
