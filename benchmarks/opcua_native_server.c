/* A server for the C column of rows U1 and U2: ITEMS doubles ns=1;i=100000.. that change every MS milliseconds, with
 * their source time. Needs open62541 1.5, installed:  gcc -O2 -flto opcua_native_server.c -o opcua_native_server \
 *     $(pkg-config --cflags --libs open62541) -lm        OPEN62541_SERVER names the program; it is run as
 * opcua_native_server PORT ITEMS MS */
#include <open62541/server.h>
#include <open62541/server_config_default.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST = 100000, SAMPLING_MS_MIN = 5, NOTIFICATIONS_MAX = 100000 };

static volatile UA_Boolean running = true;
static UA_DateTime began;
static double change_ms;

static void stop(int signal_number) {
    (void)signal_number;
    running = false;
}

static UA_StatusCode now(UA_Server *server, const UA_NodeId *session, void *session_context, const UA_NodeId *node,
                         void *place, UA_Boolean with_time, const UA_NumericRange *range, UA_DataValue *into) {
    (void)server, (void)session, (void)session_context, (void)node, (void)range;
    UA_DateTime time = UA_DateTime_now();
    UA_Double value = (double)(size_t)place + (double)(long)((double)(time - began) / (change_ms * UA_DATETIME_MSEC));
    UA_StatusCode status = UA_Variant_setScalarCopy(&into->value, &value, &UA_TYPES[UA_TYPES_DOUBLE]);
    into->hasValue = status == UA_STATUSCODE_GOOD;
    into->hasSourceTimestamp = with_time;
    into->sourceTimestamp = time;
    return status;
}

static UA_StatusCode add(UA_Server *server, size_t place) {
    char name[32];
    snprintf(name, sizeof name, "v%05zu", place);
    UA_VariableAttributes about = UA_VariableAttributes_default;
    about.displayName = UA_LOCALIZEDTEXT("", name);
    about.dataType = UA_TYPES[UA_TYPES_DOUBLE].typeId;
    about.valueRank = UA_VALUERANK_SCALAR;
    about.minimumSamplingInterval = SAMPLING_MS_MIN;
    UA_CallbackValueSource source;
    memset(&source, 0, sizeof source);
    source.read = now;
    return UA_Server_addCallbackValueSourceVariableNode(
        server, UA_NODEID_NUMERIC(1, FIRST + (UA_UInt32)place), UA_NS0ID(OBJECTSFOLDER), UA_NS0ID(ORGANIZES),
        UA_QUALIFIEDNAME(1, name), UA_NS0ID(BASEDATAVARIABLETYPE), about, source, (void *)place, NULL);
}

int main(int argc, char **argv) {
    if (argc < 4) return 2;
    int port = atoi(argv[1]), items = atoi(argv[2]);
    change_ms = atof(argv[3]);
    signal(SIGTERM, stop);
    signal(SIGINT, stop);
    UA_ServerConfig config;
    memset(&config, 0, sizeof config);
    if (UA_ServerConfig_setMinimal(&config, (UA_UInt16)port, NULL)) return 1;
    config.samplingIntervalLimits.min = config.publishingIntervalLimits.min = SAMPLING_MS_MIN;
    config.maxNotificationsPerPublish = NOTIFICATIONS_MAX;
    char url[48];
    snprintf(url, sizeof url, "opc.tcp://127.0.0.1:%d", port);
    UA_Array_delete(config.serverUrls, config.serverUrlsSize, &UA_TYPES[UA_TYPES_STRING]);
    config.serverUrls = UA_String_new();
    *config.serverUrls = UA_STRING_ALLOC(url);
    config.serverUrlsSize = 1;
    UA_Server *server = UA_Server_newWithConfig(&config);
    began = UA_DateTime_now();
    for (int place = 0; place < items; place++) {
        UA_StatusCode status = add(server, (size_t)place);
        if (status) {
            fprintf(stderr, "%s\n", UA_StatusCode_name(status));
            return 1;
        }
    }
    UA_StatusCode status = UA_Server_run(server, &running);
    UA_Server_delete(server);
    return status != UA_STATUSCODE_GOOD;
}
