package lab

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

// socketBuffer is how much the transport's socket holds, in bytes.
const socketBuffer = 4 << 20

// A userWireguard is an interface that wireguard-go serves from this process.
//
// wireguard-go opens sockets on whatever goroutine it happens to run, which would be in the wrong namespace. The three
// places are the transport (so it gets a [nsBind], which also switches off its route listener), the MTU (so it gets a
// [nsTUN]), and the listener for link events (so the TUN is an unmonitored one).
type userWireguard struct {
	n    *Namespace
	name string
	dev  *device.Device
}

func newUserWireguard(n *Namespace, name string) (wireguard, error) {
	fd := -1
	err := n.Do(func() (err error) {
		if fd, err = openTUN(name); err != nil {
			return fmt.Errorf("open tun: %w", err)
		}
		return thisNetlink(func(h *netlink.Handle) error {
			return withLink(h, name, func(link netlink.Link) error {
				return errors.Join(h.LinkSetMTU(link, tunnelMTU), h.LinkSetTxQLen(link, tunnelQueue))
			})
		})
	})
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	dev, _, err := tun.CreateUnmonitoredTUNFromFD(fd)
	if err != nil { // the file that it made of fd closes it
		return nil, fmt.Errorf("open tun: %w", err)
	}
	logger := device.NewLogger(device.LogLevelSilent, "")
	return &userWireguard{n, name, device.NewDevice(nsTUN{dev}, &nsBind{n: n}, logger)}, nil
}

// openTUN makes a TUN interface in the calling thread's namespace. It exists until the descriptor is closed.
func openTUN(name string) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("/dev/net/tun: %w", err)
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("add %s: %w", name, err)
	}
	return fd, nil
}

func (w *userWireguard) set(cfg wgConfig) error {
	var b strings.Builder
	fmt.Fprintf(&b, "private_key=%s\nlisten_port=%d\nfwmark=%d\n", hex.EncodeToString(cfg.key[:]), cfg.port, cfg.fwmark)
	fmt.Fprintf(&b, "replace_peers=true\npublic_key=%s\n", hex.EncodeToString(cfg.peer[:]))
	if cfg.endpoint.IsValid() {
		fmt.Fprintf(&b, "endpoint=%v\npersistent_keepalive_interval=%d\n", cfg.endpoint, int(keepalive.Seconds()))
	}
	for _, p := range cfg.allowed {
		fmt.Fprintf(&b, "allowed_ip=%v\n", p)
	}
	if err := w.dev.IpcSet(b.String()); err != nil {
		return fmt.Errorf("configure wireguard: %w", err)
	}
	if err := w.dev.Up(); err != nil {
		return fmt.Errorf("start wireguard: %w", err)
	}
	return nil
}

func (w *userWireguard) shaken() (bool, error) {
	state, err := w.dev.IpcGet()
	for line := range strings.Lines(state) {
		at, ok := strings.CutPrefix(line, "last_handshake_time_sec=")
		if ok && strings.TrimSpace(at) != "0" {
			return true, err
		}
	}
	return false, err
}

func (w *userWireguard) close() error {
	w.dev.Close()
	// The descriptor that was the interface may live on in a process that is being forked, until that executes something.
	return w.n.withNetlink(func(h *netlink.Handle) error {
		link, err := h.LinkByName(w.name)
		if err == nil {
			err = h.LinkDel(link)
		}
		var gone netlink.LinkNotFoundError
		if errors.As(err, &gone) || errors.Is(err, unix.ENODEV) {
			return nil
		}
		return err
	})
}

// An nsTUN is a TUN whose MTU never changes, so nobody has to ask the kernel from the wrong namespace.
type nsTUN struct{ tun.Device }

func (nsTUN) MTU() (int, error) { return tunnelMTU, nil }

// An nsBind is a transport for wireguard-go whose socket is in a namespace. It speaks IPv4 only, as the lab's
// transport does, and leaves the choice of the source address to the kernel, packet by packet.
type nsBind struct {
	n *Namespace

	mu   sync.Mutex
	sock *net.UDPConn
}

// Open implements [conn.Bind].
func (b *nsBind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sock != nil {
		return nil, 0, conn.ErrBindAlreadyOpen
	}
	cfg := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			// Smaller buffers are slower, not wrong.
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer)
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, socketBuffer)
		})
	}}
	listen := func() error {
		pc, err := cfg.ListenPacket(context.Background(), "udp4", fmt.Sprintf(":%d", port))
		if err == nil {
			b.sock = pc.(*net.UDPConn)
		}
		return err
	}
	// A socket that was closed a moment ago may live on in a process that is being forked, until that executes something.
	retry := time.NewTicker(5 * time.Millisecond)
	defer retry.Stop()
	err := b.n.Do(listen)
	for range 400 {
		if !errors.Is(err, unix.EADDRINUSE) {
			break
		}
		<-retry.C
		err = b.n.Do(listen)
	}
	if err != nil {
		return nil, 0, err
	}
	local := b.sock.LocalAddr().(*net.UDPAddr)
	return []conn.ReceiveFunc{receiveFrom(b.sock)}, uint16(local.Port), nil
}

// receiveFrom returns the function that receives one datagram at a time from sock.
func receiveFrom(sock *net.UDPConn) conn.ReceiveFunc {
	return func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		n, from, err := sock.ReadFromUDPAddrPort(bufs[0])
		if err != nil {
			return 0, err
		}
		sizes[0] = n
		eps[0] = &conn.StdNetEndpoint{AddrPort: from}
		return 1, nil
	}
}

// Close implements [conn.Bind].
func (b *nsBind) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sock == nil {
		return nil
	}
	err := b.sock.Close()
	b.sock = nil
	return err
}

// SetMark implements [conn.Bind].
func (b *nsBind) SetMark(mark uint32) error {
	sock, err := b.open()
	if err != nil {
		return err
	}
	raw, err := sock.SyscallConn()
	if err != nil {
		return err
	}
	return control(raw, Mark(mark))
}

// Send implements [conn.Bind].
func (b *nsBind) Send(bufs [][]byte, ep conn.Endpoint) error {
	to, ok := ep.(*conn.StdNetEndpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	sock, err := b.open()
	if err != nil {
		return err
	}
	for _, buf := range bufs {
		if _, err := sock.WriteToUDPAddrPort(buf, to.AddrPort); err != nil {
			return err
		}
	}
	return nil
}

// ParseEndpoint implements [conn.Bind].
func (b *nsBind) ParseEndpoint(s string) (conn.Endpoint, error) {
	ep, err := netip.ParseAddrPort(s)
	return &conn.StdNetEndpoint{AddrPort: ep}, err
}

// BatchSize implements [conn.Bind].
func (b *nsBind) BatchSize() int { return 1 }

func (b *nsBind) open() (*net.UDPConn, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sock == nil {
		return nil, net.ErrClosed
	}
	return b.sock, nil
}
