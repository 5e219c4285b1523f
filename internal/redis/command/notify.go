package command

import (
	"strconv"

	"holdfast/internal/redis/config"
	"holdfast/internal/redis/keyspace"
)

// NotifyClass is a set of classes of keyspace events: the letters of
// notify-keyspace-events.
type NotifyClass = config.NotifyFlags

// The classes.
const (
	NotifyGeneric = config.NotifyGeneric
	NotifyString  = config.NotifyString
	NotifyList    = config.NotifyList
	NotifySet     = config.NotifySet
	NotifyHash    = config.NotifyHash
	NotifyZSet    = config.NotifyZSet
	NotifyExpired = config.NotifyExpired
	NotifyEvicted = config.NotifyEvicted
	NotifyStream  = config.NotifyStream
	NotifyKeyMiss = config.NotifyKeyMiss
	NotifyNew     = config.NotifyNew
)

// Notify publishes the event of a key to the subscribers of keyspace events,
// when its class is enabled.
func (e *Engine) Notify(class NotifyClass, event string, key []byte, db *keyspace.DB) {
	flags := e.Cfg.NotifyKeyspaceEvents
	if flags&class == 0 || flags&(config.NotifyKeyspace|config.NotifyKeyevent) == 0 {
		return
	}
	id := strconv.Itoa(db.Index())
	if flags&config.NotifyKeyspace != 0 {
		ch := append([]byte("__keyspace@"+id+"__:"), key...)
		e.publish(ch, []byte(event))
	}
	if flags&config.NotifyKeyevent != 0 {
		e.publish([]byte("__keyevent@"+id+"__:"+event), key)
	}
}
