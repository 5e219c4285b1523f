"""A client of redis-py: Sentinel discovery, pipelines, pub/sub, blocking commands."""
import sys
import threading

import redis
from redis.sentinel import Sentinel

server, *sentinels = [int(p) for p in sys.argv[1:]]


def check(what, got, want):
    if got != want:
        sys.exit("%s: got %r, want %r" % (what, got, want))


def data(r):
    check("ping", r.ping(), True)
    check("set", r.set("py:s", "v", px=500000, nx=True), True)
    check("get", r.get("py:s"), b"v")
    check("hash", (r.hset("py:h", mapping={"a": 1, "b": "two"}), r.hgetall("py:h")), (2, {b"a": b"1", b"b": b"two"}))
    check("zset", (r.zadd("py:z", {"a": 1.5, "b": float("inf")}), r.zrange("py:z", 0, -1, withscores=True)),
          (2, [(b"a", 1.5), (b"b", float("inf"))]))
    check("scan", sorted(r.scan_iter("py:*")), [b"py:h", b"py:s", b"py:z"])
    info = r.info()
    check("info", (info["redis_version"].startswith("7.0."), info["role"]), (True, "master"))
    check("config", r.config_get("maxmemory-policy"), {"maxmemory-policy": "noeviction"})
    check("client list", any(c["name"] == "py" for c in (r.client_setname("py"), r.client_list())[1]), True)
    check("command", "get" in r.execute_command("COMMAND"), True)


def pipelines(r):
    with r.pipeline(transaction=True) as p:
        check("transaction", p.set("py:n", 1).incr("py:n").get("py:n").execute(), [True, 2, b"2"])
    with r.pipeline(transaction=False) as p:
        for i in range(5000):
            p.incr("py:p")
        check("pipeline", p.execute()[-1], 5000)
    with r.pipeline() as p:
        p.watch("py:n")
        r.set("py:n", 5)
        p.multi()
        p.incr("py:n")
        try:
            p.execute()
            sys.exit("a watched key changed, and EXEC succeeded")
        except redis.WatchError:
            pass
    try:
        r.lpush("py:n", 1)
        sys.exit("LPUSH on a string succeeded")
    except redis.ResponseError as e:
        check("error", str(e), "WRONGTYPE Operation against a key holding the wrong kind of value")


def pubsub(r):
    p = r.pubsub()
    p.subscribe("py:news")
    p.psubscribe("py:*")
    check("subscribe", p.get_message(timeout=30)["type"], "subscribe")
    check("psubscribe", p.get_message(timeout=30)["type"], "psubscribe")
    check("publish", r.publish("py:news", "hello"), 2)
    got = sorted((p.get_message(timeout=30)["type"], p.get_message(timeout=30)["type"]))
    check("messages", got, ["message", "pmessage"])
    p.close()


def blocking(r):
    t = threading.Thread(target=lambda: r.rpush("py:queue", "job"))
    t.start()
    check("blpop", r.blpop("py:queue", timeout=20), (b"py:queue", b"job"))
    t.join()


def sentinel():
    s = Sentinel([("127.0.0.1", p) for p in sentinels], socket_timeout=30)
    check("discover_master", s.discover_master("mymaster"), ("127.0.0.1", server))
    check("discover_slaves", len(s.discover_slaves("mymaster")), 1)
    m = s.master_for("mymaster", socket_timeout=30)
    check("master_for", (m.set("py:m", "x"), m.wait(1, 20000), m.get("py:m")), (True, 1, b"x"))
    check("slave_for", s.slave_for("mymaster", socket_timeout=30).get("py:m"), b"x")
    one = redis.Redis(port=sentinels[0])
    state = one.sentinel_master("mymaster")
    check("sentinel_master", (state["port"], state["is_master"], state["num-slaves"]), (server, True, 1))
    check("sentinel_slaves", len(one.sentinel_slaves("mymaster")), 1)
    check("ckquorum", one.execute_command("SENTINEL", "CKQUORUM", "mymaster").startswith(b"OK 3 usable"), True)


r = redis.Redis(port=server, socket_timeout=30)
r.flushall()
data(r)
pipelines(r)
pubsub(r)
blocking(r)
sentinel()
print("redis-py", redis.__version__, "is content")
