// Package interop proves that nobody on the wire can tell holdfast from Redis 7.0: it acts as a client of both, sends the
// same commands to each, and compares the replies byte for byte. It holds tests only.
//
// Three tests share one harness:
//
//   - TestScripts runs the scripts of testdata/*.txt, each on RESP2 and on RESP3;
//   - TestMatrix* generate commands from tables: every command with too few and too many arguments, on keys of every type,
//     and every argument of a valid call replaced by nonsense;
//   - TestRandom sends seeded random commands and compares DEBUG DIGEST now and then.
//
// A script is one command per line in the quoting of redis-cli, `#` starts a comment line. A line may begin with modifiers,
// which change how the reply of that command (or, alone on a line, of the next command) is compared:
//
//	!unordered        aggregates are multisets, at every level; maps are sets of pairs
//	!pairs            flat arrays of an even number of elements are sets of pairs
//	!fields           every field that genuine INFO names is in ours, in whatever order; ours may have more
//	!lines            the lines inside a leaf are a multiset
//	!shape            only types and the lengths of aggregates count
//	!kind             only the type of the reply counts; errors must be equal
//	!ignore           both must reply, no matter what
//	!err-prefix       of errors only the first word counts
//	!mask RE          what RE matches inside a leaf is replaced by <*>
//	!hide NAME        the leaf behind a leaf NAME, that is the value of the field NAME, does not count, at any level
//	!near N           numbers may differ by up to N
//	!replies N        N replies follow the command
//	!repeat N         the command is sent N times, ${i} counts from 0; counts as one comparison
//	!capture NAME     ${NAME} becomes the text of the reply's first leaf, on each side its own (implies !shape)
//	!until TEXT       repeat the command until its reply's first leaf is TEXT, on both sides
//	!quiet            not compared, not counted: it only prepares
//	!x                {a|b|} are alternatives: all combinations are sent, each a comparison of its own
//
// and these lines steer:
//
//	!conn NAME        go on with the connection NAME, opened at its first use (the first one is called main)
//	!close            close the current connection
//	!send CMD         send without waiting for the reply;  !recv [N] compares N replies
//	!drain            compare all replies up to now, however many
//	!raw BYTES        write the bytes as they are, compare one reply or that the connection was closed
//	!rawsend BYTES    write the bytes, read nothing
//	!alive            compare whether the connection still answers PING
//	!blocked N        wait until N clients are blocked;  !wait-info FIELD VALUE is the general form
//	!config K V       CONFIG SET on a control connection (all configuration is restored after a script anyway)
//	!before CMD       sent quietly before each combination of an !x line;  without CMD: forget all
//	!after CMD        sent and compared after each combination;  without CMD: forget all
//	!swap NAME        each side gets the other's captured NAME: payloads cross over
//	!restart HOW      stop both servers (save, nosave, kill) and start them on the same directory
//	!server ARGS      (anywhere) this script runs on servers of its own, started with ARGS
//	!only 2|3         (anywhere) this script runs on that protocol only
//
// In arguments ${abc*1000} is a repeated string, ${port} the server's port, ${addr} or ${addr:NAME} the address of a connection
// as the server sees it.
//
// Environment: HOLDFAST_INTEROP_GENUINE_ONLY=1 compares two genuine servers, which proves scripts and masks and must give no
// difference; HOLDFAST_INTEROP_LATER=1 adds the scripts later_*.txt, which need families that are not built yet;
// HOLDFAST_INTEROP_BINARY names a built binary; HOLDFAST_INTEROP_TRACE=1 prints every command with the genuine reply.
package interop
