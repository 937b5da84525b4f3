// A Sparkplug B edge node on sparkplug-client, for tests/live/test_gateway_foreign.py and test_sparkplug_edge.py.
// node edge.mjs PORT GROUP NODE DEVICE
// Prints `born` at each birth and `rebirth` when it was asked for one. Publishes five times a second, by
// names without aliases, some messages compressed: this client then leaves the sequence number out of the
// envelope, and its bdSeq is 0 for ever. Told `lose`, its device dies and is silent; told `find`, all is born again.
// Ends, with its death, when its standard input is closed.
import sparkplug from "sparkplug-client";

const [port, groupId, edgeNode, device] = process.argv.slice(2);
const client = sparkplug.newClient({
  serverUrl: `tcp://127.0.0.1:${port}`, username: "", password: "", groupId, edgeNode,
  clientId: `live-${edgeNode}`, version: "spBv1.0", publishDeath: true,
});
let tick = 0;
let lost = false;
const metrics = () => [
  { name: "temperature", type: "Float", value: 400 + (tick % 50) / 2 },
  { name: "cycles", type: "UInt32", value: tick },
  { name: "door/open", type: "Boolean", value: tick % 5 === 0 },
];
const birth = () => {
  const timestamp = Date.now();
  client.publishNodeBirth({ timestamp, metrics: [
    { name: "Node Control/Rebirth", type: "Boolean", value: false },
    { name: "load", type: "Double", value: 0.25 },
  ] });
  client.publishDeviceBirth(device, { timestamp, metrics: [...metrics(), { name: "maker", type: "String", value: "Live" }] });
  console.log("born");
};
client.on("birth", birth);
client.on("ncmd", (payload) => {
  if (payload.metrics?.some((metric) => metric.name === "Node Control/Rebirth" && metric.value)) {
    console.log("rebirth");
    birth();
  }
});
const timer = setInterval(() => {
  tick += 1;
  if (tick % 2 === 0 || lost) return;
  const options = { compress: tick % 11 === 0, algorithm: [undefined, "DEFLATE", "GZIP"][tick % 3] };
  client.publishDeviceData(device, { timestamp: Date.now(), metrics: metrics() }, options);
}, 100);
process.stdin.on("data", (line) => {
  lost = String(line).startsWith("lose");
  if (lost) client.publishDeviceDeath(device, { timestamp: Date.now() });
  else birth();
});
process.stdin.on("end", () => {
  clearInterval(timer);
  client.stop();
  setTimeout(() => process.exit(0), 300);
});
