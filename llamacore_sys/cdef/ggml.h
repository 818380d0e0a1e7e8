/* ggml: types, tensors and their memory, logging, quantisation, thread pool parameters. No graph building. */

/* Format versions, limits, defaults, exit codes, rope kinds */
#define GGML_FILE_MAGIC ...
#define GGML_FILE_VERSION ...
#define GGML_QNT_VERSION ...
#define GGML_QNT_VERSION_FACTOR ...
#define GGML_MAX_DIMS ...
#define GGML_MAX_PARAMS ...
#define GGML_MAX_SRC ...
#define GGML_MAX_N_THREADS ...
#define GGML_MAX_OP_PARAMS ...
#define GGML_MAX_NAME ...
#define GGML_DEFAULT_N_THREADS ...
#define GGML_DEFAULT_GRAPH_SIZE ...
#define GGML_MEM_ALIGN ...
#define GGML_EXIT_SUCCESS ...
#define GGML_EXIT_ABORTED ...
#define GGML_ROPE_TYPE_NORMAL ...
#define GGML_ROPE_TYPE_NEOX ...
#define GGML_ROPE_TYPE_MROPE ...
#define GGML_ROPE_TYPE_VISION ...
#define GGML_ROPE_TYPE_IMROPE ...
#define GGML_MROPE_SECTIONS ...
#define GGML_N_TASKS_MAX ...

/* Fatal errors: the callback runs before the process would abort */
typedef void (*ggml_abort_callback_t)(const char * error_message);
ggml_abort_callback_t ggml_set_abort_callback(ggml_abort_callback_t callback);

/* Status of a computation */
enum ggml_status {
    GGML_STATUS_ALLOC_FAILED = ...,
    GGML_STATUS_FAILED = ...,
    GGML_STATUS_SUCCESS = ...,
    GGML_STATUS_ABORTED = ...,
};

const char * ggml_status_to_string(enum ggml_status status);

/* Half precision */
typedef uint16_t ggml_fp16_t;
float ggml_fp16_to_fp32(ggml_fp16_t);
ggml_fp16_t ggml_fp32_to_fp16(float);
void ggml_fp16_to_fp32_row(const ggml_fp16_t *, float *, int64_t);
void ggml_fp32_to_fp16_row(const float *, ggml_fp16_t *, int64_t);

/* Brain float */
typedef struct {
    uint16_t bits;
    ...;
} ggml_bf16_t;

ggml_bf16_t ggml_fp32_to_bf16(float);
float ggml_bf16_to_fp32(ggml_bf16_t);
void ggml_bf16_to_fp32_row(const ggml_bf16_t *, float *, int64_t);
void ggml_fp32_to_bf16_row_ref(const float *, ggml_bf16_t *, int64_t);
void ggml_fp32_to_bf16_row(const float *, ggml_bf16_t *, int64_t);

/* Opaque handles */
struct ggml_context;
struct ggml_cgraph;

/* Element types and file types */
enum ggml_type {
    GGML_TYPE_F32 = ...,
    GGML_TYPE_F16 = ...,
    GGML_TYPE_Q4_0 = ...,
    GGML_TYPE_Q4_1 = ...,
    GGML_TYPE_Q5_0 = ...,
    GGML_TYPE_Q5_1 = ...,
    GGML_TYPE_Q8_0 = ...,
    GGML_TYPE_Q8_1 = ...,
    GGML_TYPE_Q2_K = ...,
    GGML_TYPE_Q3_K = ...,
    GGML_TYPE_Q4_K = ...,
    GGML_TYPE_Q5_K = ...,
    GGML_TYPE_Q6_K = ...,
    GGML_TYPE_Q8_K = ...,
    GGML_TYPE_IQ2_XXS = ...,
    GGML_TYPE_IQ2_XS = ...,
    GGML_TYPE_IQ3_XXS = ...,
    GGML_TYPE_IQ1_S = ...,
    GGML_TYPE_IQ4_NL = ...,
    GGML_TYPE_IQ3_S = ...,
    GGML_TYPE_IQ2_S = ...,
    GGML_TYPE_IQ4_XS = ...,
    GGML_TYPE_I8 = ...,
    GGML_TYPE_I16 = ...,
    GGML_TYPE_I32 = ...,
    GGML_TYPE_I64 = ...,
    GGML_TYPE_F64 = ...,
    GGML_TYPE_IQ1_M = ...,
    GGML_TYPE_BF16 = ...,
    GGML_TYPE_TQ1_0 = ...,
    GGML_TYPE_TQ2_0 = ...,
    GGML_TYPE_MXFP4 = ...,
    GGML_TYPE_NVFP4 = ...,
    GGML_TYPE_Q1_0 = ...,
    GGML_TYPE_Q2_0 = ...,
    GGML_TYPE_COUNT = ...,
};

enum ggml_ftype {
    GGML_FTYPE_UNKNOWN = ...,
    GGML_FTYPE_ALL_F32 = ...,
    GGML_FTYPE_MOSTLY_F16 = ...,
    GGML_FTYPE_MOSTLY_Q4_0 = ...,
    GGML_FTYPE_MOSTLY_Q4_1 = ...,
    GGML_FTYPE_MOSTLY_Q4_1_SOME_F16 = ...,
    GGML_FTYPE_MOSTLY_Q8_0 = ...,
    GGML_FTYPE_MOSTLY_Q5_0 = ...,
    GGML_FTYPE_MOSTLY_Q5_1 = ...,
    GGML_FTYPE_MOSTLY_Q2_K = ...,
    GGML_FTYPE_MOSTLY_Q3_K = ...,
    GGML_FTYPE_MOSTLY_Q4_K = ...,
    GGML_FTYPE_MOSTLY_Q5_K = ...,
    GGML_FTYPE_MOSTLY_Q6_K = ...,
    GGML_FTYPE_MOSTLY_IQ2_XXS = ...,
    GGML_FTYPE_MOSTLY_IQ2_XS = ...,
    GGML_FTYPE_MOSTLY_IQ3_XXS = ...,
    GGML_FTYPE_MOSTLY_IQ1_S = ...,
    GGML_FTYPE_MOSTLY_IQ4_NL = ...,
    GGML_FTYPE_MOSTLY_IQ3_S = ...,
    GGML_FTYPE_MOSTLY_IQ2_S = ...,
    GGML_FTYPE_MOSTLY_IQ4_XS = ...,
    GGML_FTYPE_MOSTLY_IQ1_M = ...,
    GGML_FTYPE_MOSTLY_BF16 = ...,
    GGML_FTYPE_MOSTLY_MXFP4 = ...,
    GGML_FTYPE_MOSTLY_NVFP4 = ...,
    GGML_FTYPE_MOSTLY_Q1_0 = ...,
    GGML_FTYPE_MOSTLY_Q2_0 = ...,
};

/* Operations, as a tensor names the one that makes it */
enum ggml_op {
    GGML_OP_NONE = ...,
    GGML_OP_DUP = ...,
    GGML_OP_ADD = ...,
    GGML_OP_ADD_ID = ...,
    GGML_OP_ADD1 = ...,
    GGML_OP_ACC = ...,
    GGML_OP_SUB = ...,
    GGML_OP_MUL = ...,
    GGML_OP_DIV = ...,
    GGML_OP_SQR = ...,
    GGML_OP_SQRT = ...,
    GGML_OP_LOG = ...,
    GGML_OP_SIN = ...,
    GGML_OP_COS = ...,
    GGML_OP_SUM = ...,
    GGML_OP_SUM_ROWS = ...,
    GGML_OP_CUMSUM = ...,
    GGML_OP_MEAN = ...,
    GGML_OP_ARGMAX = ...,
    GGML_OP_COUNT_EQUAL = ...,
    GGML_OP_REPEAT = ...,
    GGML_OP_REPEAT_BACK = ...,
    GGML_OP_CONCAT = ...,
    GGML_OP_SILU_BACK = ...,
    GGML_OP_NORM = ...,
    GGML_OP_RMS_NORM = ...,
    GGML_OP_RMS_NORM_BACK = ...,
    GGML_OP_GROUP_NORM = ...,
    GGML_OP_L2_NORM = ...,
    GGML_OP_MUL_MAT = ...,
    GGML_OP_MUL_MAT_ID = ...,
    GGML_OP_OUT_PROD = ...,
    GGML_OP_SCALE = ...,
    GGML_OP_SET = ...,
    GGML_OP_CPY = ...,
    GGML_OP_CONT = ...,
    GGML_OP_RESHAPE = ...,
    GGML_OP_VIEW = ...,
    GGML_OP_PERMUTE = ...,
    GGML_OP_TRANSPOSE = ...,
    GGML_OP_GET_ROWS = ...,
    GGML_OP_GET_ROWS_BACK = ...,
    GGML_OP_SET_ROWS = ...,
    GGML_OP_DIAG = ...,
    GGML_OP_DIAG_MASK_INF = ...,
    GGML_OP_DIAG_MASK_ZERO = ...,
    GGML_OP_SOFT_MAX = ...,
    GGML_OP_SOFT_MAX_BACK = ...,
    GGML_OP_ROPE = ...,
    GGML_OP_ROPE_BACK = ...,
    GGML_OP_CLAMP = ...,
    GGML_OP_CONV_TRANSPOSE_1D = ...,
    GGML_OP_IM2COL = ...,
    GGML_OP_IM2COL_BACK = ...,
    GGML_OP_IM2COL_3D = ...,
    GGML_OP_COL2IM_1D = ...,
    GGML_OP_CONV_2D = ...,
    GGML_OP_CONV_3D = ...,
    GGML_OP_CONV_2D_DW = ...,
    GGML_OP_CONV_TRANSPOSE_2D = ...,
    GGML_OP_POOL_1D = ...,
    GGML_OP_POOL_2D = ...,
    GGML_OP_POOL_2D_BACK = ...,
    GGML_OP_UPSCALE = ...,
    GGML_OP_PAD = ...,
    GGML_OP_PAD_REFLECT_1D = ...,
    GGML_OP_ROLL = ...,
    GGML_OP_ARANGE = ...,
    GGML_OP_TIMESTEP_EMBEDDING = ...,
    GGML_OP_ARGSORT = ...,
    GGML_OP_TOP_K = ...,
    GGML_OP_LEAKY_RELU = ...,
    GGML_OP_TRI = ...,
    GGML_OP_FILL = ...,
    GGML_OP_FLASH_ATTN_EXT = ...,
    GGML_OP_FLASH_ATTN_BACK = ...,
    GGML_OP_SSM_CONV = ...,
    GGML_OP_SSM_SCAN = ...,
    GGML_OP_WIN_PART = ...,
    GGML_OP_WIN_UNPART = ...,
    GGML_OP_GET_REL_POS = ...,
    GGML_OP_ADD_REL_POS = ...,
    GGML_OP_RWKV_WKV6 = ...,
    GGML_OP_GATED_LINEAR_ATTN = ...,
    GGML_OP_RWKV_WKV7 = ...,
    GGML_OP_SOLVE_TRI = ...,
    GGML_OP_GATED_DELTA_NET = ...,
    GGML_OP_LIGHTNING_INDEXER = ...,
    GGML_OP_DSV4_HC_COMB = ...,
    GGML_OP_DSV4_HC_PRE = ...,
    GGML_OP_DSV4_HC_POST = ...,
    GGML_OP_UNARY = ...,
    GGML_OP_MAP_CUSTOM1 = ...,
    GGML_OP_MAP_CUSTOM2 = ...,
    GGML_OP_MAP_CUSTOM3 = ...,
    GGML_OP_CUSTOM = ...,
    GGML_OP_CROSS_ENTROPY_LOSS = ...,
    GGML_OP_CROSS_ENTROPY_LOSS_BACK = ...,
    GGML_OP_OPT_STEP_ADAMW = ...,
    GGML_OP_OPT_STEP_SGD = ...,
    GGML_OP_GLU = ...,
    GGML_OP_COUNT = ...,
};

enum ggml_unary_op {
    GGML_UNARY_OP_ABS = ...,
    GGML_UNARY_OP_SGN = ...,
    GGML_UNARY_OP_NEG = ...,
    GGML_UNARY_OP_STEP = ...,
    GGML_UNARY_OP_TANH = ...,
    GGML_UNARY_OP_ELU = ...,
    GGML_UNARY_OP_RELU = ...,
    GGML_UNARY_OP_SIGMOID = ...,
    GGML_UNARY_OP_GELU = ...,
    GGML_UNARY_OP_GELU_QUICK = ...,
    GGML_UNARY_OP_SILU = ...,
    GGML_UNARY_OP_HARDSWISH = ...,
    GGML_UNARY_OP_HARDSIGMOID = ...,
    GGML_UNARY_OP_EXP = ...,
    GGML_UNARY_OP_EXPM1 = ...,
    GGML_UNARY_OP_SOFTPLUS = ...,
    GGML_UNARY_OP_GELU_ERF = ...,
    GGML_UNARY_OP_XIELU = ...,
    GGML_UNARY_OP_FLOOR = ...,
    GGML_UNARY_OP_CEIL = ...,
    GGML_UNARY_OP_ROUND = ...,
    GGML_UNARY_OP_TRUNC = ...,
    GGML_UNARY_OP_COUNT = ...,
};

enum ggml_glu_op {
    GGML_GLU_OP_REGLU = ...,
    GGML_GLU_OP_GEGLU = ...,
    GGML_GLU_OP_SWIGLU = ...,
    GGML_GLU_OP_SWIGLU_OAI = ...,
    GGML_GLU_OP_GEGLU_ERF = ...,
    GGML_GLU_OP_GEGLU_QUICK = ...,
    GGML_GLU_OP_SWIGLU_CLAMP = ...,
    GGML_GLU_OP_COUNT = ...,
};

/* Log levels */
enum ggml_log_level {
    GGML_LOG_LEVEL_NONE = ...,
    GGML_LOG_LEVEL_DEBUG = ...,
    GGML_LOG_LEVEL_INFO = ...,
    GGML_LOG_LEVEL_WARN = ...,
    GGML_LOG_LEVEL_ERROR = ...,
    GGML_LOG_LEVEL_CONT = ...,
};

/* Tensors */
enum ggml_tensor_flag {
    GGML_TENSOR_FLAG_INPUT = ...,
    GGML_TENSOR_FLAG_OUTPUT = ...,
    GGML_TENSOR_FLAG_PARAM = ...,
    GGML_TENSOR_FLAG_LOSS = ...,
    GGML_TENSOR_FLAG_COMPUTE = ...,
};

struct ggml_init_params {
    size_t mem_size;
    void * mem_buffer;
    bool no_alloc;
    ...;
};

struct ggml_tensor {
    enum ggml_type type;
    struct ggml_backend_buffer * buffer;
    int64_t ne[...];
    size_t nb[...];
    enum ggml_op op;
    int32_t op_params[...];
    int32_t flags;
    struct ggml_tensor * src[...];
    struct ggml_tensor * view_src;
    size_t view_offs;
    void * data;
    char name[...];
    void * extra;
    ...;
};

/* Stops a computation when it returns true */
typedef bool (*ggml_abort_callback)(void * data);

/* Back end identifiers */
typedef uint8_t ggml_guid[...];
typedef ggml_guid * ggml_guid_t;
bool ggml_guid_matches(ggml_guid_t guid_a, ggml_guid_t guid_b);

/* Version */
const char * ggml_version(void);
const char * ggml_commit(void);

/* Clocks */
void ggml_time_init(void);
int64_t ggml_time_ms(void);
int64_t ggml_time_us(void);
int64_t ggml_cycles(void);
int64_t ggml_cycles_per_ms(void);

/* Sizes */
int64_t ggml_nelements(const struct ggml_tensor * tensor);
int64_t ggml_nrows(const struct ggml_tensor * tensor);
size_t ggml_nbytes(const struct ggml_tensor * tensor);
size_t ggml_nbytes_pad(const struct ggml_tensor * tensor);
int64_t ggml_blck_size(enum ggml_type type);
size_t ggml_type_size(enum ggml_type type);
size_t ggml_row_size(enum ggml_type type, int64_t ne);

/* Names */
const char * ggml_type_name(enum ggml_type type);
const char * ggml_op_name(enum ggml_op op);
const char * ggml_op_symbol(enum ggml_op op);
const char * ggml_unary_op_name(enum ggml_unary_op op);
const char * ggml_glu_op_name(enum ggml_glu_op op);
const char * ggml_op_desc(const struct ggml_tensor * t);

/* Element layout and type conversion */
size_t ggml_element_size(const struct ggml_tensor * tensor);
bool ggml_is_quantized(enum ggml_type type);
enum ggml_type ggml_ftype_to_ggml_type(enum ggml_ftype ftype);

/* Shape and memory layout */
bool ggml_is_transposed(const struct ggml_tensor * tensor);
bool ggml_is_permuted(const struct ggml_tensor * tensor);
bool ggml_is_empty(const struct ggml_tensor * tensor);
bool ggml_is_view(const struct ggml_tensor * tensor);
bool ggml_is_scalar(const struct ggml_tensor * tensor);
bool ggml_is_vector(const struct ggml_tensor * tensor);
bool ggml_is_matrix(const struct ggml_tensor * tensor);
bool ggml_is_3d(const struct ggml_tensor * tensor);
int ggml_n_dims(const struct ggml_tensor * tensor);
bool ggml_is_contiguous(const struct ggml_tensor * tensor);
bool ggml_is_contiguous_0(const struct ggml_tensor * tensor);
bool ggml_is_contiguous_1(const struct ggml_tensor * tensor);
bool ggml_is_contiguous_2(const struct ggml_tensor * tensor);
bool ggml_is_contiguous_to_1(const struct ggml_tensor * tensor);
bool ggml_is_contiguous_to_2(const struct ggml_tensor * tensor);
bool ggml_is_contiguous_to_3(const struct ggml_tensor * tensor);
bool ggml_is_contiguously_allocated(const struct ggml_tensor * tensor);
bool ggml_is_contiguous_channels(const struct ggml_tensor * tensor);
bool ggml_is_contiguous_rows(const struct ggml_tensor * tensor);
bool ggml_are_same_shape(const struct ggml_tensor * t0, const struct ggml_tensor * t1);
bool ggml_are_same_stride(const struct ggml_tensor * t0, const struct ggml_tensor * t1);
bool ggml_can_repeat(const struct ggml_tensor * t0, const struct ggml_tensor * t1);

/* Memory need and data checks */
size_t ggml_tensor_overhead(void);
bool ggml_validate_row_data(enum ggml_type type, const void * data, size_t nbytes);

/* Contexts: arenas that hold tensors */
struct ggml_context * ggml_init(struct ggml_init_params params);
void ggml_reset(struct ggml_context * ctx);
void ggml_free(struct ggml_context * ctx);
size_t ggml_used_mem(const struct ggml_context * ctx);
bool ggml_get_no_alloc(struct ggml_context * ctx);
void ggml_set_no_alloc(struct ggml_context * ctx, bool no_alloc);
void * ggml_get_mem_buffer(const struct ggml_context * ctx);
size_t ggml_get_mem_size(const struct ggml_context * ctx);
size_t ggml_get_max_tensor_size(const struct ggml_context * ctx);

/* Tensor creation */
struct ggml_tensor * ggml_new_tensor(struct ggml_context * ctx, enum ggml_type type, int n_dims, const int64_t * ne);
struct ggml_tensor * ggml_new_tensor_1d(struct ggml_context * ctx, enum ggml_type type, int64_t ne0);
struct ggml_tensor * ggml_new_tensor_2d(struct ggml_context * ctx, enum ggml_type type, int64_t ne0, int64_t ne1);
struct ggml_tensor * ggml_new_tensor_3d(
    struct ggml_context * ctx, enum ggml_type type, int64_t ne0, int64_t ne1, int64_t ne2);
struct ggml_tensor * ggml_new_tensor_4d(
    struct ggml_context * ctx, enum ggml_type type, int64_t ne0, int64_t ne1, int64_t ne2, int64_t ne3);
void * ggml_new_buffer(struct ggml_context * ctx, size_t nbytes);
struct ggml_tensor * ggml_dup_tensor(struct ggml_context * ctx, const struct ggml_tensor * src);
struct ggml_tensor * ggml_view_tensor(struct ggml_context * ctx, struct ggml_tensor * src);

/* Tensors of a context */
struct ggml_tensor * ggml_get_first_tensor(const struct ggml_context * ctx);
struct ggml_tensor * ggml_get_next_tensor(const struct ggml_context * ctx, struct ggml_tensor * tensor);
struct ggml_tensor * ggml_get_tensor(struct ggml_context * ctx, const char * name);

/* Tensor contents */
void ggml_unravel_index(
    const struct ggml_tensor * tensor, int64_t i, int64_t * i0, int64_t * i1, int64_t * i2, int64_t * i3);
enum ggml_unary_op ggml_get_unary_op(const struct ggml_tensor * tensor);
enum ggml_glu_op ggml_get_glu_op(const struct ggml_tensor * tensor);
void * ggml_get_data(const struct ggml_tensor * tensor);
float * ggml_get_data_f32(const struct ggml_tensor * tensor);
const char * ggml_get_name(const struct ggml_tensor * tensor);
struct ggml_tensor * ggml_set_name(struct ggml_tensor * tensor, const char * name);

/* Marks on tensors */
void ggml_set_input(struct ggml_tensor * tensor);
void ggml_set_output(struct ggml_tensor * tensor);
void ggml_set_param(struct ggml_tensor * tensor);
void ggml_set_loss(struct ggml_tensor * tensor);

/* Graphs, read only */
int ggml_graph_size(struct ggml_cgraph * cgraph);
struct ggml_tensor * ggml_graph_node(struct ggml_cgraph * cgraph, int i);
struct ggml_tensor ** ggml_graph_nodes(struct ggml_cgraph * cgraph);
int ggml_graph_n_nodes(struct ggml_cgraph * cgraph);
struct ggml_tensor * ggml_graph_get_tensor(const struct ggml_cgraph * cgraph, const char * name);

/* Logging */
typedef void (*ggml_log_callback)(enum ggml_log_level level, const char * text, void * user_data);
void ggml_log_get(ggml_log_callback * log_callback, void ** user_data);
void ggml_log_set(ggml_log_callback log_callback, void * user_data);
struct ggml_tensor * ggml_set_zero(struct ggml_tensor * tensor);

/* Quantisation */
void ggml_quantize_init(enum ggml_type type);
void ggml_quantize_free(void);
bool ggml_quantize_requires_imatrix(enum ggml_type type);
size_t ggml_quantize_chunk(
    enum ggml_type type, const float * src, void * dst, int64_t start, int64_t nrows, int64_t n_per_row,
    const float * imatrix);

/* Type traits */
typedef void (*ggml_to_float_t)(const void * x, float * y, int64_t k);
typedef void (*ggml_from_float_t)(const float * x, void * y, int64_t k);

struct ggml_type_traits {
    const char * type_name;
    int64_t blck_size;
    int64_t blck_size_interleave;
    size_t type_size;
    bool is_quantized;
    ggml_to_float_t to_float;
    ggml_from_float_t from_float_ref;
    ...;
};

const struct ggml_type_traits * ggml_get_type_traits(enum ggml_type type);

/* Thread pools: parameters and handle */
enum ggml_sched_priority {
    GGML_SCHED_PRIO_LOW = ...,
    GGML_SCHED_PRIO_NORMAL = ...,
    GGML_SCHED_PRIO_MEDIUM = ...,
    GGML_SCHED_PRIO_HIGH = ...,
    GGML_SCHED_PRIO_REALTIME = ...,
};

struct ggml_threadpool_params {
    bool cpumask[...];
    int n_threads;
    enum ggml_sched_priority prio;
    uint32_t poll;
    bool strict_cpu;
    bool paused;
    ...;
};

struct ggml_threadpool;
typedef struct ggml_threadpool * ggml_threadpool_t;
struct ggml_threadpool_params ggml_threadpool_params_default(int n_threads);
void ggml_threadpool_params_init(struct ggml_threadpool_params * p, int n_threads);
bool ggml_threadpool_params_match(const struct ggml_threadpool_params * p0, const struct ggml_threadpool_params * p1);

/* NUMA strategies: upstream keeps them in ggml-cpu.h, but llama_numa_init takes them in every build */
enum ggml_numa_strategy {
    GGML_NUMA_STRATEGY_DISABLED = ...,
    GGML_NUMA_STRATEGY_DISTRIBUTE = ...,
    GGML_NUMA_STRATEGY_ISOLATE = ...,
    GGML_NUMA_STRATEGY_NUMACTL = ...,
    GGML_NUMA_STRATEGY_MIRROR = ...,
    GGML_NUMA_STRATEGY_COUNT = ...,
};
