/* The peer in C: open62541 1.5. Reads ITEMS nodes ns=1;i=100000.., BATCH a request, one request after the other, into a
 * column of double; or watches them in one subscription. Tells what it did as JSON.
 * opcua_native_client read|subscribe PORT SECONDS ITEMS MS */
#include <open62541/client.h>
#include <open62541/client_config_default.h>
#include <open62541/client_highlevel.h>
#include <open62541/client_subscriptions.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

enum { FIRST = 100000, BATCH = 1000, QUEUE = 2, TIMEOUT_MS = 20000, LOOK_MS = 50 };

static double *column;
static long seen;

static double wall_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static double cpu_s(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

static void tell(double began, double began_cpu) {
    printf("{\"items\": %ld, \"cpu_s\": %f, \"wall_s\": %f}\n", seen, cpu_s() - began_cpu, wall_s() - began);
}

static int read_all(UA_Client *client, UA_ReadValueId *nodes, int items) {
    for (int start = 0; start < items; start += BATCH) {
        UA_ReadRequest request;
        UA_ReadRequest_init(&request);
        request.nodesToRead = nodes + start;
        request.nodesToReadSize = BATCH;
        request.timestampsToReturn = UA_TIMESTAMPSTORETURN_SOURCE;
        UA_ReadResponse response = UA_Client_Service_read(client, request);
        if (response.resultsSize != BATCH) return 0;
        for (int i = 0; i < BATCH; i++) {
            if (!response.results[i].hasValue) return 0;
            column[start + i] = *(double *)response.results[i].value.data;
        }
        UA_ReadResponse_clear(&response);
        seen += BATCH;
    }
    return 1;
}

static void changed(UA_Client *client, UA_UInt32 subscription, void *context, UA_UInt32 item, void *place,
                    UA_DataValue *value) {
    (void)client, (void)subscription, (void)context, (void)item;
    seen++;
    if (value->hasValue) column[(size_t)place] = *(double *)value->value.data;
}

static int watch(UA_Client *client, UA_ReadValueId *nodes, int items, double ms) {
    UA_CreateSubscriptionRequest wanted = UA_CreateSubscriptionRequest_default();
    wanted.requestedPublishingInterval = ms;
    wanted.maxNotificationsPerPublish = 0;
    UA_CreateSubscriptionResponse made = UA_Client_Subscriptions_create(client, wanted, NULL, NULL, NULL);
    if (made.responseHeader.serviceResult) return 0;
    for (int start = 0; start < items; start += BATCH) {
        static UA_MonitoredItemCreateRequest asked[BATCH];
        static UA_Client_DataChangeNotificationCallback told[BATCH];
        static UA_Client_DeleteMonitoredItemCallback gone[BATCH];
        static void *places[BATCH];
        for (int i = 0; i < BATCH; i++) {
            asked[i] = UA_MonitoredItemCreateRequest_default(nodes[start + i].nodeId);
            asked[i].requestedParameters.samplingInterval = ms;
            asked[i].requestedParameters.queueSize = QUEUE;
            told[i] = changed;
            places[i] = (void *)(size_t)(start + i);
        }
        UA_CreateMonitoredItemsRequest request;
        UA_CreateMonitoredItemsRequest_init(&request);
        request.subscriptionId = made.subscriptionId;
        request.timestampsToReturn = UA_TIMESTAMPSTORETURN_SOURCE;
        request.itemsToCreate = asked;
        request.itemsToCreateSize = BATCH;
        UA_CreateMonitoredItemsResponse answer =
            UA_Client_MonitoredItems_createDataChanges(client, request, places, told, gone);
        if (answer.responseHeader.serviceResult) return 0;
        UA_CreateMonitoredItemsResponse_clear(&answer);
    }
    for (double began = wall_s(); wall_s() - began < 1;) UA_Client_run_iterate(client, LOOK_MS);
    return 1;
}

int main(int argc, char **argv) {
    if (argc < 6) return 2;
    double seconds = atof(argv[3]);
    int items = atoi(argv[4]) / BATCH * BATCH;
    char url[64];
    snprintf(url, sizeof url, "opc.tcp://127.0.0.1:%s", argv[2]);
    UA_Client *client = UA_Client_new();
    UA_ClientConfig *config = UA_Client_getConfig(client);
    UA_ClientConfig_setDefault(config);
    config->timeout = TIMEOUT_MS;
    if (items < BATCH || UA_Client_connect(client, url)) return 1;
    column = calloc((size_t)items, sizeof *column);
    UA_ReadValueId *nodes = calloc((size_t)items, sizeof *nodes);
    for (int i = 0; i < items; i++) {
        nodes[i].nodeId = UA_NODEID_NUMERIC(1, FIRST + (UA_UInt32)i);
        nodes[i].attributeId = UA_ATTRIBUTEID_VALUE;
    }
    int reads = strcmp(argv[1], "read") == 0;
    if (!(reads ? read_all(client, nodes, items) : watch(client, nodes, items, atof(argv[5])))) return 1;
    seen = 0;
    double began_cpu = cpu_s(), began = wall_s();
    do {
        if (reads ? !read_all(client, nodes, items) : UA_Client_run_iterate(client, LOOK_MS) != 0) return 1;
    } while (wall_s() - began < seconds);
    tell(began, began_cpu);
    UA_Client_disconnect(client);
    UA_Client_delete(client);
    return 0;
}
