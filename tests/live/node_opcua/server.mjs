// An OPC UA server on node-opcua for tests/live/test_opcua_node.py.
// node server.mjs PORT PKI_FOLDER NAMESPACE_URI VARIABLES CHANGE_MS
// Prints one line `ready {...}` when it listens. Commands on standard input: `set NAME NUMBER`, `bad NAME`, `sessions`,
// `change MS` (all variables good again, and changing so often; 0: at rest).
// Ends with its standard input.
import { createInterface } from "node:readline";
import nodeOpcua from "node-opcua";

const {
  DataType, MessageSecurityMode, OPCUACertificateManager, OPCUAServer, SecurityPolicy,
  StatusCodes, Variant, VariantArrayType,
} = nodeOpcua;

const [port, pki, uri, variables, changeMs] = [
  Number(process.argv[2]), process.argv[3], process.argv[4], Number(process.argv[5]), Number(process.argv[6])];

const manager = new OPCUACertificateManager({ rootFolder: pki, automaticallyAcceptUnknownCertificate: true });
const server = new OPCUAServer({
  port,
  host: "127.0.0.1",
  resourcePath: "/live",
  serverCertificateManager: manager,
  allowAnonymous: true,
  securityModes: [MessageSecurityMode.SignAndEncrypt, MessageSecurityMode.Sign, MessageSecurityMode.None],
  securityPolicies: [SecurityPolicy.None, SecurityPolicy.Basic256Sha256, SecurityPolicy.Aes128_Sha256_RsaOaep,
    SecurityPolicy.Aes256_Sha256_RsaPss],
  serverInfo: { applicationUri: "urn:tallystick:live:node", applicationName: { text: "live" } },
  serverCapabilities: { operationLimits: { maxMonitoredItemsPerCall: 30, maxNodesPerRead: 20 } },
});
await server.initialize();

const space = server.engine.addressSpace;
const own = space.registerNamespace(uri);
const machine = own.addObject({ organizedBy: space.rootFolder.objects, browseName: "Machine", nodeId: "s=Machine" });
for (const [name, value] of [["Manufacturer", "Live Works"], ["Model", "NX-1"], ["SerialNumber", "L-0042"]]) {
  own.addVariable({ propertyOf: machine, browseName: name, dataType: DataType.String,
    value: { dataType: DataType.String, value } });
}
const kinds = [DataType.Double, DataType.Float, DataType.Int32, DataType.UInt16, DataType.Boolean];
const nodes = new Map();
for (let i = 0; i < variables; i += 1) {
  const dataType = kinds[i % kinds.length];
  const node = own.addVariable({ componentOf: machine, browseName: `v${i}`, nodeId: `s=v${i}`, dataType });
  node.setValueFromSource(new Variant({ dataType, value: dataType === DataType.Boolean ? false : 0 }));
  nodes.set(`v${i}`, node);
}
const text = own.addVariable({ componentOf: machine, browseName: "text", nodeId: "s=text", dataType: DataType.String });
text.setValueFromSource(new Variant({ dataType: DataType.String, value: "运行" }));
const big = own.addVariable({ componentOf: machine, browseName: "big", nodeId: "s=big", dataType: DataType.UInt64 });
big.setValueFromSource(new Variant({ dataType: DataType.UInt64, arrayType: VariantArrayType.Scalar,
  value: [0x00200000, 1] }));  // 2^53 + 1
const still = own.addVariable({ componentOf: machine, browseName: "still", nodeId: "s=still", dataType: DataType.Double });
still.setValueFromSource(new Variant({ dataType: DataType.Double, value: 7.5 }));

let tick = 0;
let timer = null;
function change(everyMs) {
  clearInterval(timer);
  const next = () => {
    tick += 1;
    for (const node of nodes.values()) {
      const dataType = node.readValue().value.dataType;
      node.setValueFromSource(new Variant({ dataType, value: dataType === DataType.Boolean ? tick % 2 === 1 : tick % 60000 }));
    }
  };
  if (everyMs > 0) {
    timer = setInterval(next, everyMs);
  } else {
    next();
  }
}
if (changeMs > 0) {
  change(changeMs);
}

await server.start();
console.log(`ready ${JSON.stringify({ certificate: server.getCertificate().toString("hex") })}`);

const input = createInterface({ input: process.stdin });
input.on("line", (line) => {
  const [command, name, value] = line.split(" ");
  if (command === "set") {
    nodes.get(name).setValueFromSource(new Variant({ dataType: DataType.Double, value: Number(value) }));
  } else if (command === "bad") {
    nodes.get(name).setValueFromSource(new Variant({ dataType: DataType.Double, value: 0 }), StatusCodes.BadSensorFailure);
  } else if (command === "change") {
    change(Number(name));
  } else if (command === "sessions") {
    console.log(`sessions ${server.engine.currentSessionCount} ${server.engine.currentSubscriptionCount}`);
  }
});
input.on("close", async () => {
  clearInterval(timer);
  await server.shutdown(10);
  process.exit(0);
});
