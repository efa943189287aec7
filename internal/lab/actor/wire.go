//go:build linux

package actor

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The mirror of src/actor.h and src/datagram.h, where the comments are. Structures are native: both ends run on
// one machine, and both machines are little endian.
const (
	magic         = 0x726f7463
	datagramMagic = 0x6d677264
	requestSize   = 88
	replySize     = 48
	datagramSize  = 16
	dataMax       = 12288
	flagOnThread  = 1
	argvMax       = 16
)

type opcode uint32

const (
	opInfo opcode = iota
	opExit
	opBirth
	opSpawn
	opExec
	opSend
	opConnect
	opPoll
	opStorm
	opSyscall
	opAbdicate
)

func (o opcode) String() string {
	names := [...]string{
		"info", "exit", "fork", "spawn", "exec", "send", "connect", "poll", "storm", "syscall", "abdicate",
	}
	if int(o) < len(names) {
		return names[o]
	}
	return fmt.Sprintf("op %d", uint32(o))
}

const (
	byClone = iota
	byClone3
	byFork
	byDouble
)

// Each of these is the first letter of the value of wishEnv.
const (
	wishEnv    = "SIDESTEP_ACTOR="
	startStage = 'c'
)

type request struct {
	op    opcode
	flags uint32
	token uint64
	arg   [7]uint64
	data  []byte
}

func (r *request) marshal(seq uint32) []byte {
	b := make([]byte, 0, requestSize+len(r.data))
	le := binary.LittleEndian
	b = le.AppendUint32(b, magic)
	b = le.AppendUint32(b, seq)
	b = le.AppendUint32(b, uint32(r.op))
	b = le.AppendUint32(b, r.flags)
	b = le.AppendUint64(b, r.token)
	for _, a := range r.arg {
		b = le.AppendUint64(b, a)
	}
	b = le.AppendUint32(b, uint32(len(r.data)))
	b = le.AppendUint32(b, 0)
	return append(b, r.data...)
}

type reply struct {
	seq            uint32
	ret            int64
	token, base    uint64
	pid, tid, ppid uint32
	data           []byte
}

func parseReply(b []byte) (reply, error) {
	le := binary.LittleEndian
	if len(b) < replySize || le.Uint32(b) != magic {
		return reply{}, fmt.Errorf("not a reply: %d bytes", len(b))
	}
	r := reply{
		seq:   le.Uint32(b[4:]),
		ret:   int64(le.Uint64(b[8:])),
		token: le.Uint64(b[16:]),
		base:  le.Uint64(b[24:]),
		pid:   le.Uint32(b[32:]),
		tid:   le.Uint32(b[36:]),
		ppid:  le.Uint32(b[40:]),
		data:  b[replySize:],
	}
	if n := le.Uint32(b[44:]); int(n) != len(r.data) {
		return reply{}, fmt.Errorf("reply carries %d bytes, promises %d", len(r.data), n)
	}
	return r, nil
}

// A Datagram is what actors and probes send: the sender as it sees itself, and the index within its command.
type Datagram struct {
	PID, TID int
	Index    int
}

var errDatagram = errors.New("not a datagram of an actor or probe")

// ParseDatagram reads the payload of a datagram.
func ParseDatagram(b []byte) (Datagram, error) {
	le := binary.LittleEndian
	if len(b) != datagramSize || le.Uint32(b) != datagramMagic {
		return Datagram{}, errDatagram
	}
	return Datagram{
		PID:   int(le.Uint32(b[4:])),
		TID:   int(le.Uint32(b[8:])),
		Index: int(le.Uint32(b[12:])),
	}, nil
}
