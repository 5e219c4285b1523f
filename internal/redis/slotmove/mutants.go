package slotmove

// Mutants is a set of deliberate mistakes, each one that a core like this could
// be, or was, written with. The simulator has to notice each.
type Mutants struct {
	CommitEarly   bool // the source: COMMIT before GIVEN is durable
	DropEarly     bool // the source: drops the keys before anybody has claimed the slots
	NoHold        bool // the source: writes go on while the rest is sent
	NoReadHold    bool // the source: reads go on once the slots are given
	TakeBackLate  bool // the source: takes given slots back when nobody claims them in time
	PresumeCommit bool // the target: claims when COMMIT does not come
	ClaimEarly    bool // the target: claims as soon as it is ready
	AskPeer       bool // the target: asks the source although another node took its place
	ForgetReady   bool // the target: no mark READY
	ForgetClaim   bool // the target: no mark is kept once it has claimed
	ForgetUnheard bool // the target: the mark is taken away although the source has not heard the claim
	LeakFeed      bool // either: forgets connections that are about to be made
}
