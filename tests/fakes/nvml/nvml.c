/* A libnvidia-ml.so.1 for tests: it plays the machine of the text file that DS01_FAKE_NVML names.
 *
 * The file is read again on every call, so a test changes the machine by writing it. One record a line, fields
 * separated by tabs; `profile` and `instance` belong to the `gpu` before them:
 *
 *   driver    VERSION
 *   cuda      NUMBER                                  12040 is 12.4
 *   user      ordinary | privileged
 *   error     SYMBOL CODE GPU                         GPU -1: on every one
 *   hang      SYMBOL FILE                             the call hangs while FILE exists
 *   gpu       UUID MODEL MIB BUS PCI CAPABLE CURRENT PENDING PERSISTENCE STATE
 *   profile   ENUM ID SLICES SIZE MIB SM MAX MEDIA NAME START,START...
 *   instance  INDEX GI CI PROFILE_ID START SLICES UUID
 *
 * Only what the NVML adapter calls is here. All other symbols that pynvml knows are generated beside this file and
 * answer NOT_SUPPORTED. The structures are those of pynvml; a test compares the sizes.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9, GPU_IS_LOST = 15, RESET_REQUIRED = 16,
};
enum { GPUS = 16, PROFILES = 20, INSTANCES = 16, RULES = 32, STARTS = 16, TEXT = 96, FIELDS = 12 };

typedef struct { unsigned start, size; } Placement;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct {
    unsigned sm, copy, decoder, encoder, jpeg, ofa, gi_slices, ci_slices;
    unsigned long long memory_mb;
} Attributes;
typedef struct {
    unsigned id, p2p, slices, instances, sm, copy, decoder, encoder, jpeg, ofa;
    unsigned long long memory_mb;
} ProfileInfo;
typedef struct {
    unsigned version, id, p2p, slices, instances, sm, copy, decoder, encoder, jpeg, ofa;
    unsigned long long memory_mb;
    char name[96];
} ProfileInfoV2;
typedef struct { void *device; unsigned id, profile; Placement placement; } InstanceInfo;
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } Pci;

typedef struct {
    unsigned number, id, slices, size, memory, sm, max, media, starts;
    char name[TEXT];
    unsigned start[STARTS];
} Shape;
typedef struct { unsigned index, gi, ci, profile, start, slices; char uuid[TEXT]; } Instance;
typedef struct {
    char uuid[TEXT], model[TEXT], bus[32], state[24];
    unsigned memory, pci, capable, current, pending, persistence, shapes, instances;
    Shape shape[PROFILES];
    Instance instance[INSTANCES];
} Gpu;
typedef struct { char symbol[TEXT], file[512]; int code, gpu; } Rule;

static __thread struct {
    char driver[TEXT];
    int cuda, ordinary;
    unsigned gpus, rules;
    Gpu gpu[GPUS];
    Rule rule[RULES];
} machine;
static int initialised;

static void copy(char *to, size_t room, const char *from) { snprintf(to, room, "%s", from); }
static unsigned number(const char *text) { return (unsigned)strtoul(text, NULL, 0); }

static void read_gpu(char **f) {
    if (machine.gpus == GPUS) return;
    Gpu *gpu = &machine.gpu[machine.gpus++];
    memset(gpu, 0, sizeof *gpu);
    copy(gpu->uuid, sizeof gpu->uuid, f[1]);
    copy(gpu->model, sizeof gpu->model, f[2]);
    gpu->memory = number(f[3]);
    copy(gpu->bus, sizeof gpu->bus, f[4]);
    gpu->pci = number(f[5]);
    gpu->capable = number(f[6]);
    gpu->current = number(f[7]);
    gpu->pending = number(f[8]);
    gpu->persistence = number(f[9]);
    copy(gpu->state, sizeof gpu->state, f[10]);
}

static void read_profile(Gpu *gpu, char **f) {
    if (gpu->shapes == PROFILES) return;
    Shape *shape = &gpu->shape[gpu->shapes++];
    unsigned *to[] = {&shape->number, &shape->id, &shape->slices, &shape->size,
                      &shape->memory, &shape->sm, &shape->max,    &shape->media};
    for (unsigned i = 0; i < 8; i++) *to[i] = number(f[i + 1]);
    copy(shape->name, sizeof shape->name, f[9]);
    for (char *rest = f[10]; *rest && shape->starts < STARTS; rest += *rest == ',')
        shape->start[shape->starts++] = (unsigned)strtoul(rest, &rest, 10);
}

static void read_instance(Gpu *gpu, char **f) {
    if (gpu->instances == INSTANCES) return;
    Instance *instance = &gpu->instance[gpu->instances++];
    unsigned *to[] = {&instance->index,   &instance->gi,    &instance->ci,
                      &instance->profile, &instance->start, &instance->slices};
    for (unsigned i = 0; i < 6; i++) *to[i] = number(f[i + 1]);
    copy(instance->uuid, sizeof instance->uuid, f[7]);
}

static void read_rule(char **f, int hangs) {
    if (machine.rules == RULES) return;
    Rule *rule = &machine.rule[machine.rules++];
    memset(rule, 0, sizeof *rule);
    copy(rule->symbol, sizeof rule->symbol, f[1]);
    rule->gpu = -1;
    if (hangs) {
        copy(rule->file, sizeof rule->file, f[2]);
    } else {
        rule->code = atoi(f[2]);
        rule->gpu = atoi(f[3]);
    }
}

static int read_machine(void) {
    const char *path = getenv("DS01_FAKE_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file) return DRIVER_NOT_LOADED;
    memset(&machine, 0, offsetof(__typeof__(machine), gpu));
    char line[1024];
    while (fgets(line, sizeof line, file)) {
        static char empty[1];
        char *field[FIELDS], *rest = line;
        line[strcspn(line, "\n")] = 0;
        for (unsigned i = 0; i < FIELDS; i++) field[i] = (field[i] = strsep(&rest, "\t")) ? field[i] : empty;
        Gpu *gpu = machine.gpus ? &machine.gpu[machine.gpus - 1] : NULL;
        if (!strcmp(field[0], "driver")) copy(machine.driver, sizeof machine.driver, field[1]);
        else if (!strcmp(field[0], "cuda")) machine.cuda = atoi(field[1]);
        else if (!strcmp(field[0], "user")) machine.ordinary = !strcmp(field[1], "ordinary");
        else if (!strcmp(field[0], "error")) read_rule(field, 0);
        else if (!strcmp(field[0], "hang")) read_rule(field, 1);
        else if (!strcmp(field[0], "gpu")) read_gpu(field);
        else if (!strcmp(field[0], "profile") && gpu) read_profile(gpu, field);
        else if (!strcmp(field[0], "instance") && gpu) read_instance(gpu, field);
    }
    fclose(file);
    return OK;
}

/* A handle is a number that says where to look: kind, GPU, and the index of a MIG device or the id of an instance. */
enum { GPU = 1, MIG = 2, GI = 3 };
static void *handle_of(unsigned kind, unsigned gpu, unsigned part) {
    return (void *)(uintptr_t)(kind << 24 | gpu << 12 | part);
}
static unsigned kind_of(void *handle) { return (unsigned)(uintptr_t)handle >> 24; }
static unsigned gpu_of(void *handle) { return (unsigned)(uintptr_t)handle >> 12 & 0xfff; }
static unsigned part_of(void *handle) { return (unsigned)(uintptr_t)handle & 0xfff; }

static int state_of(unsigned gpu, const char *symbol) {
    if (gpu >= machine.gpus) return INVALID_ARGUMENT;
    if (!strcmp(machine.gpu[gpu].state, "lost")) return GPU_IS_LOST;
    int named = !strcmp(symbol, "nvmlDeviceGetHandleByIndex_v2") || !strcmp(symbol, "nvmlDeviceGetUUID");
    return !strcmp(machine.gpu[gpu].state, "reset_required") && !named ? RESET_REQUIRED : OK;
}

/* What every call begins with: the machine as it is now, the hangs and errors asked for, the GPU's own state. */
static int enter(const char *symbol, int gpu) {
    int code = read_machine();
    for (unsigned i = 0; !code && i < machine.rules; i++) {
        Rule *rule = &machine.rule[i];
        if (strcmp(rule->symbol, symbol) || (rule->gpu >= 0 && rule->gpu != gpu)) continue;
        while (rule->file[0] && !access(rule->file, F_OK)) usleep(2000);
        code = rule->code;
    }
    if (code) return code;
    if (!initialised && strcmp(symbol, "nvmlInitWithFlags")) return UNINITIALIZED;
    return gpu < 0 ? OK : state_of((unsigned)gpu, symbol);
}
#define ENTER(gpu)                                     \
    do {                                               \
        int code_ = enter(__func__, (int)(gpu));       \
        if (code_) return code_;                       \
    } while (0)
#define ENTER_KIND(handle, kind)                                \
    do {                                                        \
        if (kind_of(handle) != (kind)) return INVALID_ARGUMENT; \
        ENTER(gpu_of(handle));                                  \
    } while (0)

static Shape *shape_of(Gpu *gpu, unsigned id) {
    for (unsigned i = 0; i < gpu->shapes; i++)
        if (gpu->shape[i].id == id) return &gpu->shape[i];
    return NULL;
}
static Instance *instance_of(void *handle) {
    Gpu *gpu = &machine.gpu[gpu_of(handle)];
    for (unsigned i = 0; i < gpu->instances; i++) {
        Instance *it = &gpu->instance[i];
        if ((kind_of(handle) == MIG ? it->index : it->gi) == part_of(handle)) return it;
    }
    return NULL;
}

int nvmlInitWithFlags(unsigned flags) { (void)flags; ENTER(-1); initialised++; return OK; }
int nvmlShutdown(void) { ENTER(-1); initialised--; return OK; }
const char *nvmlErrorString(int code) { (void)code; return "an error of the stand-in"; }

int nvmlSystemGetDriverVersion(char *to, unsigned room) { ENTER(-1); copy(to, room, machine.driver); return OK; }
int nvmlSystemGetCudaDriverVersion_v2(int *to) { ENTER(-1); *to = machine.cuda; return OK; }
int nvmlDeviceGetCount_v2(unsigned *to) { ENTER(-1); *to = machine.gpus; return OK; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **to) {
    ENTER(index);
    *to = handle_of(GPU, index, 0);
    return OK;
}
int nvmlDeviceGetUUID(void *handle, char *to, unsigned room) {
    ENTER(gpu_of(handle));
    Instance *instance = kind_of(handle) == MIG ? instance_of(handle) : NULL;
    if (kind_of(handle) == MIG && !instance) return NOT_FOUND;
    copy(to, room, instance ? instance->uuid : machine.gpu[gpu_of(handle)].uuid);
    return OK;
}
int nvmlDeviceGetName(void *handle, char *to, unsigned room) {
    ENTER(gpu_of(handle));
    copy(to, room, machine.gpu[gpu_of(handle)].model);
    return OK;
}
int nvmlDeviceGetPciInfo_v3(void *handle, Pci *to) {
    ENTER_KIND(handle, GPU);
    memset(to, 0, sizeof *to);
    to->id = machine.gpu[gpu_of(handle)].pci;
    copy(to->bus_id, sizeof to->bus_id, machine.gpu[gpu_of(handle)].bus);
    return OK;
}
int nvmlDeviceGetMemoryInfo(void *handle, Memory *to) {
    ENTER_KIND(handle, GPU);
    Gpu *gpu = &machine.gpu[gpu_of(handle)];
    if (machine.ordinary && gpu->current) return NO_PERMISSION;
    *to = (Memory){(unsigned long long)gpu->memory << 20, (unsigned long long)gpu->memory << 20, 0};
    return OK;
}
int nvmlDeviceGetPersistenceMode(void *handle, unsigned *to) {
    ENTER_KIND(handle, GPU);
    *to = machine.gpu[gpu_of(handle)].persistence;
    return OK;
}
int nvmlDeviceGetMigMode(void *handle, unsigned *current, unsigned *pending) {
    ENTER_KIND(handle, GPU);
    Gpu *gpu = &machine.gpu[gpu_of(handle)];
    if (!gpu->capable) return NOT_SUPPORTED;
    *current = gpu->current;
    *pending = gpu->pending;
    return OK;
}

static int profile_info(void *handle, unsigned number, ProfileInfoV2 *to) {
    Gpu *gpu = &machine.gpu[gpu_of(handle)];
    for (unsigned i = 0; i < gpu->shapes; i++) {
        Shape *shape = &gpu->shape[i];
        if (shape->number != number) continue;
        *to = (ProfileInfoV2){to->version, shape->id, 0, shape->slices, shape->max, shape->sm, shape->slices,
                              shape->media, 0, 0, shape->media, shape->memory, ""};
        snprintf(to->name, sizeof to->name, "MIG %.80s", shape->name);
        return OK;
    }
    return NOT_SUPPORTED;
}
int nvmlDeviceGetGpuInstanceProfileInfoV(void *handle, unsigned number, ProfileInfoV2 *to) {
    ENTER_KIND(handle, GPU);
    return profile_info(handle, number, to);
}
int nvmlDeviceGetGpuInstanceProfileInfo(void *handle, unsigned number, ProfileInfo *to) {
    ENTER_KIND(handle, GPU);
    ProfileInfoV2 v2 = {0};
    int code = profile_info(handle, number, &v2);
    if (!code) *to = (ProfileInfo){v2.id, v2.p2p, v2.slices, v2.instances, v2.sm, v2.copy, v2.decoder, v2.encoder,
                                   v2.jpeg, v2.ofa, v2.memory_mb};
    return code;
}
int nvmlDeviceGetGpuInstancePossiblePlacements_v2(void *handle, unsigned id, Placement *to, unsigned *count) {
    ENTER_KIND(handle, GPU);
    if (machine.ordinary) return NO_PERMISSION;
    Shape *shape = shape_of(&machine.gpu[gpu_of(handle)], id);
    if (!shape) return INVALID_ARGUMENT;
    if (to && *count < shape->starts) return INSUFFICIENT_SIZE;
    for (unsigned i = 0; to && i < shape->starts; i++) to[i] = (Placement){shape->start[i], shape->size};
    *count = shape->starts;
    return OK;
}

int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned *to) {
    ENTER_KIND(handle, GPU);
    Gpu *gpu = &machine.gpu[gpu_of(handle)];
    *to = 0;
    for (unsigned i = 0; i < gpu->shapes; i++) *to = gpu->shape[i].max > *to ? gpu->shape[i].max : *to;
    return OK;
}
int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned index, void **to) {
    ENTER_KIND(handle, GPU);
    void *mig = handle_of(MIG, gpu_of(handle), index);
    if (!machine.gpu[gpu_of(handle)].current || !instance_of(mig)) return NOT_FOUND;
    *to = mig;
    return OK;
}
int nvmlDeviceGetGpuInstanceId(void *handle, unsigned *to) {
    ENTER_KIND(handle, MIG);
    if (!instance_of(handle)) return NOT_FOUND;
    *to = instance_of(handle)->gi;
    return OK;
}
int nvmlDeviceGetComputeInstanceId(void *handle, unsigned *to) {
    ENTER_KIND(handle, MIG);
    if (!instance_of(handle)) return NOT_FOUND;
    *to = instance_of(handle)->ci;
    return OK;
}
int nvmlDeviceGetAttributes_v2(void *handle, Attributes *to) {
    ENTER_KIND(handle, MIG);
    Instance *instance = instance_of(handle);
    Shape *shape = instance ? shape_of(&machine.gpu[gpu_of(handle)], instance->profile) : NULL;
    if (!shape) return NOT_FOUND;
    *to = (Attributes){shape->sm, shape->slices, shape->media, 0, 0, shape->media, shape->slices, instance->slices,
                       shape->memory};
    return OK;
}
int nvmlDeviceGetGpuInstanceById(void *handle, unsigned gi, void **to) {
    ENTER_KIND(handle, GPU);
    if (machine.ordinary) return NO_PERMISSION;
    void *found = handle_of(GI, gpu_of(handle), gi);
    if (!instance_of(found)) return NOT_FOUND;
    *to = found;
    return OK;
}
int nvmlGpuInstanceGetInfo(void *handle, InstanceInfo *to) {
    ENTER_KIND(handle, GI);
    if (machine.ordinary) return NO_PERMISSION;
    Instance *instance = instance_of(handle);
    Shape *shape = instance ? shape_of(&machine.gpu[gpu_of(handle)], instance->profile) : NULL;
    if (!shape) return NOT_FOUND;
    *to = (InstanceInfo){handle_of(GPU, gpu_of(handle), 0), instance->gi, instance->profile,
                         {instance->start, shape->size}};
    return OK;
}

/* For the test that compares our structures with pynvml's. */
unsigned fake_sizeof(const char *name) {
    if (!strcmp(name, "c_nvmlMemory_t")) return sizeof(Memory);
    if (!strcmp(name, "c_nvmlDeviceAttributes")) return sizeof(Attributes);
    if (!strcmp(name, "c_nvmlGpuInstanceProfileInfo_t")) return sizeof(ProfileInfo);
    if (!strcmp(name, "c_nvmlGpuInstanceProfileInfo_v2_t")) return sizeof(ProfileInfoV2);
    if (!strcmp(name, "c_nvmlGpuInstancePlacement_t")) return sizeof(Placement);
    if (!strcmp(name, "c_nvmlGpuInstanceInfo_t")) return sizeof(InstanceInfo);
    if (!strcmp(name, "nvmlPciInfo_t")) return sizeof(Pci);
    return 0;
}
int fake_initialised(void) { return initialised; }
void fake_reset(void) { initialised = 0; }
