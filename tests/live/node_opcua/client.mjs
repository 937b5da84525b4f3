// An OPC UA client on node-opcua for tests/live/test_simulators_opcua.py.
// node client.mjs URL PKI_FOLDER NAMESPACE_URI NODE...     (NODE: a string identifier in that namespace)
// Connects with Basic256Sha256 and SignAndEncrypt, reads the nodes, subscribes to the first one until it has changed
// twice, and prints what it saw as one line of JSON.
import nodeOpcua from "node-opcua";

const {
  AttributeIds, ClientMonitoredItem, ClientSubscription, MessageSecurityMode, OPCUACertificateManager, OPCUAClient,
  SecurityPolicy, TimestampsToReturn,
} = nodeOpcua;

const [url, pki, uri, ...names] = process.argv.slice(2);
const clientCertificateManager = new OPCUACertificateManager({
  rootFolder: pki, automaticallyAcceptUnknownCertificate: true });
const client = OPCUAClient.create({
  applicationName: "live client", clientCertificateManager, endpointMustExist: false,
  securityMode: MessageSecurityMode.SignAndEncrypt, securityPolicy: SecurityPolicy.Basic256Sha256,
  connectionStrategy: { maxRetry: 2 } });
await client.connect(url);
const session = await client.createSession();
const namespaces = (await session.readNamespaceArray());
const nodes = names.map((name) => `ns=${namespaces.indexOf(uri)};s=${name}`);
const found = await session.read(nodes.map((nodeId) => ({ nodeId, attributeId: AttributeIds.Value })));

const subscription = ClientSubscription.create(session, {
  requestedPublishingInterval: 100, requestedLifetimeCount: 1000, requestedMaxKeepAliveCount: 10,
  maxNotificationsPerPublish: 100, publishingEnabled: true, priority: 1 });
const item = ClientMonitoredItem.create(subscription, { nodeId: nodes[0], attributeId: AttributeIds.Value },
  { samplingInterval: 100, discardOldest: true, queueSize: 10 }, TimestampsToReturn.Both);
const changes = [];
await new Promise((resolve) => {
  item.on("changed", (value) => {
    changes.push(value.value.value);
    if (changes.length === 3) resolve();
  });
});
await subscription.terminate();
await session.close();
await client.disconnect();
console.log(JSON.stringify({
  values: found.map((value) => value.value.value), good: found.every((value) => value.statusCode.value === 0),
  stamped: found.every((value) => value.sourceTimestamp !== null), changes }));
process.exit(0);
