package server

import "testing"

func TestSizesOfBuffersFollowTheirUse(t *testing.T) {
	b := newBuffers()
	b.received(30, 0)
	if b.room != roomOfReader {
		t.Errorf("after a small request: room for %d", b.room)
	}
	b.received(400_031, 400_100)
	b.shrinkRoom(0, 0, 0)
	if b.room != 400_100 {
		t.Errorf("a size that was in use lately went at once: %d", b.room)
	}
	b.received(100, 0)
	if b.shrinkRoom(0, 0, 0); b.room == 0 || b.room >= 400_100 {
		t.Errorf("room for %d although little was in use", b.room)
	}
	b.received(100, 0)
	if b.shrinkRoom(7, 0, 2001); b.room != 7 {
		t.Errorf("an idle client with 7 bytes of input has room for %d", b.room)
	}
	if b.shrinkRoom(1, 1<<40, 0); b.peak > maxModelRoom {
		t.Errorf("a claim counts as %d bytes", b.peak)
	}

	b.replied(5)
	if b.used != replyBufferMax {
		t.Errorf("a new client's peak is %d", b.used)
	}
	for now := int64(10_000); now < 20_000; now += 1000 {
		b.resizeReply(0, now, 100)
	}
	if b.reply != replyBufferMin {
		t.Errorf("an idle client has a reply buffer of %d", b.reply)
	}
	for range 10 {
		b.replied(1 << 20)
		b.resizeReply(0, 20_000, replyPeakNever)
	}
	if b.reply != replyBufferMax {
		t.Errorf("a busy client has a reply buffer of %d", b.reply)
	}
}
