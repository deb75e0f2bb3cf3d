// ioredis against a member: ioredis.js PORT. Strings, automatic and explicit pipelines, scans, errors.
const assert = require("node:assert");
const Redis = require("ioredis");

async function main() {
  const client = new Redis(Number(process.argv[2]), "127.0.0.1", { enableAutoPipelining: true, connectionName: "kvd-test" });
  assert.strictEqual(await client.flushdb(), "OK");
  assert.strictEqual(await client.set("key", "value"), "OK");
  assert.strictEqual(await client.set("key", "x", "NX"), null);
  assert.strictEqual(await client.set("key", "y", "GET"), "value");
  assert.strictEqual(await client.get("absent"), null);
  await client.set("bytes", Buffer.from([0xff, 0, 0x0a]));
  assert.deepStrictEqual(await client.getBuffer("bytes"), Buffer.from([0xff, 0, 0x0a]));
  const numbers = await Promise.all(Array.from({ length: 1000 }, () => client.incr("n")));
  assert.deepStrictEqual(numbers, Array.from({ length: 1000 }, (_, i) => i + 1));
  const replies = await client.pipeline().mset("a", 1, "b", 2).mget("a", "absent", "b").del("a", "b").exec();
  assert.deepStrictEqual(replies, [[null, "OK"], [null, ["1", null, "2"]], [null, 2]]);
  await Promise.all(Array.from({ length: 1000 }, (_, i) => client.set(`s:${i}`, i)));
  const found = new Set();
  for await (const keys of client.scanStream({ match: "s:*", count: 50 })) keys.forEach((key) => found.add(key));
  assert.strictEqual(found.size, 1000);
  assert.strictEqual(await client.dbsize(), 1003);
  await assert.rejects(client.incr("key"), /ERR value is not an integer or out of range/);
  assert.match(await client.info("server"), /redis_version:7/);
  assert.strictEqual(await client.client("GETNAME"), "kvd-test");
  assert.strictEqual(await client.quit(), "OK");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
