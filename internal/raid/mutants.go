package raid

// Mutants are bugs that arrays of this kind have had, as switches of the tests.
// The zero value, which production uses, is the array without them.
type Mutants struct {
	AckBeforeTailSync   bool // Sync returns when one copy of the tail log is synced
	RetrySync           bool // a failed sync is tried again and then believed
	TrustStale          bool // a member that is listed as out counts as current when it is there
	SkipGeneration      bool // a chunk is not compared with its stripe record
	DropTailEarly       bool // a full stripe's tail goes before its seal is durable
	ParityOfWrongStripe bool // parity is computed over the data of the stripe before
	SkipDirSync         bool // new names on members are not made durable
	KeepEventCount      bool // a change of membership does not raise the count
	NoNonce             bool // a change of membership keeps the nonce at zero
	SealBeforeData      bool // the seal is made durable before the chunks are
	ShortestCopy        bool // of several copies of a log the shortest is taken, not the longest
	ServeBeforeHeal     bool // what was recovered is served before it stands on all members
	SkipChunkChecksum   bool // block checksums of chunks are not compared
	ReuseTail           bool // the tail log goes on in its old segment file after a restart and a roll
}
