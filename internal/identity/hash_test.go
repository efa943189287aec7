package identity

import (
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/dchest/siphash"
	"pgregory.net/rapid"
)

// counting is the seed 00 01 02 ... 0f of the SipHash authors' test vectors.
func counting() Hasher {
	var seed [16]byte
	for i := range seed {
		seed[i] = byte(i)
	}
	return NewHasher(seed)
}

// TestSipHashReference checks the hash against vectors of the authors' reference (vectors.h, vectors_sip128):
// which half comes first is easily got wrong.
func TestSipHashReference(t *testing.T) {
	h := counting()
	for in, want := range map[string]string{
		"":                     "a3817f04ba25a8e66df67214c7550293",
		"\x00":                 "da87c1d86b99af44347659119b22fc45",
		"\x00\x01":             "8177228da4a45dc7fca38bdef60affe4",
		"\x00\x01\x02\x03\x04": "1368875980776f8854527a07690e9627",
	} {
		h1, h2 := siphash.Hash128(h.k0, h.k1, []byte(in))
		got := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, h1), h2)
		if hex.EncodeToString(got) != want {
			t.Errorf("SipHash-2-4-128 of %x = %x, want %s", in, got, want)
		}
	}
}

func TestMessage(t *testing.T) {
	for _, c := range []struct {
		file File
		kind uint64
		want string
	}{
		{File{254 << 20, "/usr/bin/curl"}, kindFile,
			"curl\x00\x00\x00\x00" + "bin\x00\x00\x00\x00\x00" + "usr\x00\x00\x00\x00\x00" + "\x00\x00\xe0\x0f\x01\x00\x00\x00"},
		{File{8<<20 | 17, "/opt/12345678"}, kindDir,
			"12345678\x00\x00\x00\x00\x00\x00\x00\x00" + "opt\x00\x00\x00\x00\x00" + "\x11\x00\x80\x00\x02\x00\x00\x00"},
		{File{33, "/"}, kindDir, "\x21\x00\x00\x00\x02\x00\x00\x00"},
		{File{33, "//a/"}, kindDir, "a\x00\x00\x00\x00\x00\x00\x00\x21\x00\x00\x00\x02\x00\x00\x00"},
	} {
		if got := message(c.file, c.kind); string(got) != c.want {
			t.Errorf("message(%v, %d)\n got %q\nwant %q", c.file, c.kind, got, c.want)
		}
	}
}

// known holds keys for the seed 00 01 ... 0f. The datapath's tests compare its C against the same table.
var known = []struct {
	file File
	dir  bool
	key  string
	name uint64
}{
	{File{254 << 20, "/usr/bin/curl"}, false, "db8803409c81a50845c9d683c784e577", 0x637b34f7857b509a},
	{File{254 << 20, "/usr/bin"}, true, "9a6a9002270a23f2d8d5a82cf328385d", 0x87478ea6b5c1db2b},
	{File{8<<20 | 17, "/opt/12345678"}, false, "7efa843cbe6c9f641d7360fae9d21d03", 0x0702c1b981819ee9},
	{File{8<<20 | 17, "/opt/12345678"}, true, "05f6024b52b34a9fa0bcf8ebaa6a7617", 0x0702c1b981819ee9},
	{File{0xfff<<20 | 0xfffff, "/" + strings.Repeat("n", 255)}, false, "8839b5cfe915aab69bbe147473003684", 0xe1a0a26e3d4c7930},
	{File{33, "/"}, true, "7c601d2c4832fd5c9c1d71ce9df7cf12", 0xbbcb0fdc69d876f0},
}

func TestKnownAnswers(t *testing.T) {
	h := counting()
	for _, c := range known {
		key := h.File(c.file)
		if c.dir {
			key = h.Dir(c.file)
		}
		name := h.Name(c.file.Base())
		if got := hex.EncodeToString(key[:]); got != c.key || name != c.name {
			t.Errorf("%v dir %v: key %s name %#x, want %s, %#x", c.file, c.dir, got, name, c.key, c.name)
		}
	}
}

// TestMessageIsReadable takes messages apart again: different files cannot have the same one.
func TestMessageIsReadable(t *testing.T) {
	name := rapid.StringMatching(`[a-z0-9 ._-]{1,40}`).Filter(func(s string) bool { return s != "." && s != ".." })
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfN(name, 0, 20).Draw(t, "names")
		f := File{Dev: rapid.Uint32().Draw(t, "dev"), Path: "/" + strings.Join(names, "/")}
		kind := rapid.SampledFrom([]uint64{kindFile, kindDir}).Draw(t, "kind")
		b := message(f, kind)
		if len(b)%8 != 0 {
			t.Fatalf("%d bytes", len(b))
		}
		word := binary.LittleEndian.Uint64(b[len(b)-8:])
		got := ""
		for b = b[:len(b)-8]; len(b) > 0; {
			leaf := ""
			for done := false; !done; b = b[8:] {
				word := strings.TrimRight(string(b[:8]), "\x00")
				leaf, done = leaf+word, len(word) < 8
			}
			got = "/" + leaf + got
		}
		if got == "" {
			got = "/"
		}
		if got != f.Path || uint32(word) != f.Dev || word>>32 != kind {
			t.Errorf("read %q %#x back from the message of %v", got, word, f)
		}
	})
}
