package cluster

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// MsgType is the type of a packet.
type MsgType uint16

// The types, with the numbers of the wire.
const (
	MsgPing MsgType = iota
	MsgPong
	MsgMeet
	MsgFail
	MsgPublish
	MsgAuthRequest
	MsgAuthAck
	MsgUpdate
	MsgMFStart
	MsgModule
	MsgPublishShard
	msgTypes
)

var msgNames = [msgTypes]string{"ping", "pong", "meet", "fail", "publish", "auth-req", "auth-ack", "update", "mfstart", "module", "publishshard"}

func (t MsgType) String() string {
	if t < msgTypes {
		return msgNames[t]
	}
	return "unknown"
}

// The header, in network byte order:
//
//	   0 "RCmb"          4 total length     8 version (1)    10 client port
//	  12 type           14 gossip entries  16 currentEpoch   24 configEpoch
//	  32 offset         40 sender (40)     80 slots (2048) 2128 its master (40)
//	2168 announced ip (46)               2214 extensions   2216 unused (30)
//	2246 plain port   2248 bus port      2250 flags        2252 state
//	2253 message flags (3)               2256 what the type adds
const (
	offTotlen     = 4
	offVersion    = 8
	offPort       = 10
	offType       = 12
	offCount      = 14
	offCurEpoch   = 16
	offCfgEpoch   = 24
	offOffset     = 32
	offSender     = 40
	offSlots      = 80
	offMaster     = 2128
	offMyIP       = 2168
	offExtensions = 2214
	offPlainPort  = 2246
	offBusPort    = 2248
	offFlags      = 2250
	offState      = 2252
	offMsgFlags   = 2253
	headerLen     = 2256

	ipLen     = 46
	bitmapLen = Slots / 8

	// A gossip entry: id (40), ping sent and pong received (seconds, 4 each),
	// ip (46), port, bus port, flags, plain port, unused (2 each).
	gossipLen = 104
	updateLen = 8 + NameLen + bitmapLen
	moduleLen = 13
	extHeader = 8

	extHostname = 0

	flagPaused   = 1 // the master stopped writes: the offset is final
	flagForceAck = 2 // vote although the master is up (manual failover)
	flagExtData  = 4 // there are extensions

	protoVersion = 1
)

// HeadLen is how many bytes PacketLen needs.
const HeadLen = 8

// MaxPacket bounds the length of a packet: two bulk strings of the largest size.
const MaxPacket = headerLen + 8 + 1<<30

// ErrBadPacket says that a link does not speak the protocol of the bus and
// must be closed. Its text is the line that Redis logs.
var ErrBadPacket = errors.New("Bad message length or signature received from Cluster bus.") //nolint:staticcheck // Redis's words

// PacketLen is the length of the whole packet that begins with head, which
// holds at least HeadLen bytes. The length comes from outside: grow the buffer
// as bytes arrive, not at once.
func PacketLen(head []byte) (int, error) {
	if len(head) < HeadLen || string(head[:4]) != "RCmb" {
		return 0, ErrBadPacket
	}
	n := binary.BigEndian.Uint32(head[offTotlen:])
	if n < headerLen || uint64(n) > MaxPacket {
		return 0, ErrBadPacket
	}
	return int(n), nil
}

// PacketType is the type of a packet, for counting. It is meaningless for
// bytes that are no packet.
func PacketType(p []byte) MsgType {
	if len(p) < headerLen {
		return msgTypes
	}
	return packet(p).msgType()
}

type bitmap = [bitmapLen]byte

func bitSet(b []byte, n int) bool { return b[n>>3]&(1<<(n&7)) != 0 }

// packet is a packet that validate accepted, or one that is being built.
type packet []byte

func (p packet) u16(off int) uint16      { return binary.BigEndian.Uint16(p[off:]) }
func (p packet) u64(off int) uint64      { return binary.BigEndian.Uint64(p[off:]) }
func (p packet) put16(off int, v int)    { binary.BigEndian.PutUint16(p[off:], uint16(v)) }
func (p packet) put64(off int, v uint64) { binary.BigEndian.PutUint64(p[off:], v) }

func (p packet) msgType() MsgType     { return MsgType(p.u16(offType)) }
func (p packet) count() int           { return int(p.u16(offCount)) }
func (p packet) currentEpoch() uint64 { return p.u64(offCurEpoch) }
func (p packet) configEpoch() uint64  { return p.u64(offCfgEpoch) }
func (p packet) offset() int64        { return int64(p.u64(offOffset)) }
func (p packet) sender() []byte       { return p[offSender : offSender+NameLen] }
func (p packet) slots() []byte        { return p[offSlots : offSlots+bitmapLen] }
func (p packet) master() []byte       { return p[offMaster : offMaster+NameLen] }
func (p packet) myIP() []byte         { return cstr(p[offMyIP : offMyIP+ipLen]) }
func (p packet) port() int            { return int(p.u16(offPort)) }
func (p packet) plainPort() int       { return int(p.u16(offPlainPort)) }
func (p packet) busPort() int         { return int(p.u16(offBusPort)) }
func (p packet) flags() Flags         { return Flags(p.u16(offFlags)) }
func (p packet) msgFlags() byte       { return p[offMsgFlags] }

func (p packet) gossip(i int) gossip {
	off := headerLen + i*gossipLen
	return gossip(p[off : off+gossipLen])
}

// failing is the node that a FAIL is about.
func (p packet) failing() []byte { return p[headerLen : headerLen+NameLen] }

// update gives the content of an UPDATE.
func (p packet) update() (epoch uint64, id, slots []byte) {
	b := p[headerLen:]
	return binary.BigEndian.Uint64(b), b[8 : 8+NameLen], b[8+NameLen : updateLen]
}

// publish gives the content of a PUBLISH or PUBLISHSHARD.
func (p packet) publish() (channel, message []byte) {
	b := p[headerLen:]
	n, m := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
	b = b[8:]
	return b[:n:n], b[n : n+m]
}

// noMaster reports whether the sender names no master: it is one itself.
func (p packet) noMaster() bool {
	for _, b := range p.master() {
		if b != 0 {
			return false
		}
	}
	return true
}

// extension calls f for each extension of a PING, PONG or MEET.
func (p packet) eachExtension(f func(typ int, body []byte)) {
	if p.msgFlags()&flagExtData == 0 {
		return
	}
	b := p[headerLen+p.count()*gossipLen:]
	for range p.u16(offExtensions) {
		n := binary.BigEndian.Uint32(b)
		f(int(binary.BigEndian.Uint16(b[4:])), b[extHeader:n])
		b = b[n:]
	}
}

// gossip is one entry of the gossip section.
type gossip []byte

func (g gossip) id() []byte         { return g[:NameLen] }
func (g gossip) pongSeconds() int64 { return int64(binary.BigEndian.Uint32(g[44:])) }
func (g gossip) ip() []byte         { return cstr(g[48 : 48+ipLen]) }
func (g gossip) port() int          { return int(binary.BigEndian.Uint16(g[94:])) }
func (g gossip) busPort() int       { return int(binary.BigEndian.Uint16(g[96:])) }
func (g gossip) flags() Flags       { return Flags(binary.BigEndian.Uint16(g[98:])) }
func (g gossip) plainPort() int     { return int(binary.BigEndian.Uint16(g[100:])) }

// cstr is b up to its first zero byte.
func cstr(b []byte) []byte {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		return b[:i]
	}
	return b
}

// putCstr writes s into b, cut so that a zero byte follows.
func putCstr(b []byte, s string) {
	n := copy(b[:len(b)-1], s)
	clear(b[n:])
}

// validID reports whether b can be a node id as Redis checks it: 40 bytes of
// digits and lower case letters.
func validID[T string | []byte](b T) bool {
	if len(b) != NameLen {
		return false
	}
	for i := range len(b) {
		if c := b[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// validate checks that every length in p agrees with its size, so that all
// accessors stay inside. It gives Redis's log line for a bad packet, and ok
// false with an empty line for one that is ignored without a word.
func validate(data []byte) (p packet, line string, ok bool) {
	if len(data) < headerLen || string(data[:4]) != "RCmb" || int64(binary.BigEndian.Uint32(data[offTotlen:])) != int64(len(data)) {
		return nil, "", false
	}
	p = data
	if p.u16(offVersion) != protoVersion {
		return nil, "", false
	}
	want := headerLen
	switch t := p.msgType(); t {
	case MsgPing, MsgPong, MsgMeet:
		var line string
		if want, line = p.pingLen(); line != "" {
			return nil, line, false
		}
	case MsgFail:
		want += NameLen
	case MsgUpdate:
		want += updateLen
	case MsgPublish, MsgPublishShard:
		want += 8
		if len(p) >= want {
			want += int(binary.BigEndian.Uint32(p[headerLen:])) + int(binary.BigEndian.Uint32(p[headerLen+4:]))
		}
	case MsgModule:
		want += moduleLen
		if len(p) >= want {
			want += int(binary.BigEndian.Uint32(p[headerLen+8:]))
		}
	case MsgAuthRequest, MsgAuthAck, MsgMFStart:
	default:
		want = len(p) // unknown: its handler says so
	}
	if want != len(p) {
		return nil, fmt.Sprintf("Received invalid %s packet of length %d but expected length %d", p.msgType(), len(p), want), false
	}
	return p, "", true
}

// pingLen is the length that a PING, PONG or MEET claims to have, or a log line.
func (p packet) pingLen() (int, string) {
	want := headerLen + p.count()*gossipLen
	if want > len(p) {
		return 0, fmt.Sprintf("Received invalid %s packet with gossip count %d that exceeds total packet length (%d)",
			p.msgType(), p.count(), len(p))
	}
	if p.msgFlags()&flagExtData == 0 {
		return want, ""
	}
	for range p.u16(offExtensions) {
		if len(p)-want < extHeader {
			return 0, p.badExtension()
		}
		n := binary.BigEndian.Uint32(p[want:])
		if n%8 != 0 || n < extHeader {
			return 0, fmt.Sprintf("Received a %s packet without proper padding (%d bytes)", p.msgType(), n)
		}
		if int64(len(p)-want) < int64(n) {
			return 0, p.badExtension()
		}
		if t := binary.BigEndian.Uint16(p[want+4:]); t == extHostname && bytes.IndexByte(p[want+extHeader:want+int(n)], 0) < 0 {
			return 0, fmt.Sprintf("Received %s packet with missing null terminator in extension type %d", p.msgType(), t)
		}
		want += int(n)
	}
	return want, ""
}

func (p packet) badExtension() string {
	return fmt.Sprintf("Received invalid %s packet with extension data that exceeds total packet length (%d)", p.msgType(), len(p))
}
