# The C side of a call (src/call.h), as the gate and the kernels see it.
from libc.stdint cimport int64_t, uint64_t

cdef enum:
    LANES = 64  # independent sums: enough to hide the latency of an add at any vector width
    STEPS = 16
    NEAR = 8  # ranges: the arrays of a call of so few are in the L2 cache
    TILE = 32768  # classes that a thread takes at a time of a row of very many
    BLOCK = 1024  # STEPS x LANES elements: a block of each operand fits the L1 cache

cdef extern from "call.h" nogil:
    enum:
        FL_MAX_KNOBS
        FL_PAGE
        FL_KULLBACK_LEIBLER
        FL_ANY_DIVERGENCE
        FL_F32
        FL_F64
        FL_BF16
        FL_I64
        FL_SOON
        FL_UNALIGNED
        FL_TERMS
        FL_MEANS
        FL_DIVERGENCE
        FL_MARGINS
        FL_RIVAL
        FL_LISTS
        FL_LOGPROB
        FL_LOSS
        FL_LSE
        FL_ENTROPY
        FL_MARGIN
        FL_CONFIDENCE
        FL_ARGMAX
        FL_RANK
        FL_CORRECT
        FL_TOPK
        FL_TOPK_LOGPROB
        FL_SCORES

    ctypedef struct fl_operand:
        char* data
        Py_ssize_t cols
        Py_ssize_t step
        const Py_ssize_t* shape
        const Py_ssize_t* stride
        int ndim
        int code

    ctypedef struct fl_call

    ctypedef struct fl_elements:
        const void* pred
        const void* target
        const void* extra
        void* loss
        void* grad
        void* hess
        const void* weight
        double* sum
        char* to[3]
        const double* knobs
        double scale
        Py_ssize_t n
        int wide
        int silent
        int brief
        int summed
        int order
        int ahead
        int stream
        int first
        int last
        fl_call* checks

    ctypedef void (*fl_block)(fl_elements*) noexcept nogil

    ctypedef struct fl_call:
        fl_operand pred
        fl_operand target
        fl_operand extra
        fl_operand weight
        fl_operand mask
        fl_operand loss
        fl_operand grad
        fl_operand hess
        fl_operand class_mask
        fl_block block
        double[4] knobs
        double extra_value
        double scale
        double smoothing
        double temperature
        double z_loss
        double softcap
        double low
        double high
        int64_t ignored
        Py_ssize_t size
        Py_ssize_t classes
        Py_ssize_t range
        Py_ssize_t ranges
        Py_ssize_t group
        Py_ssize_t unit
        Py_ssize_t tiles
        double* sums
        double* partial
        int order
        int silent
        int stream
        int bounded
        int ends_only
        int open
        int has_ignored
        int soft
        int lanes
        int stored
        int double_buffered
        int form
        int spread
        int divergence
        int target_logits
        const fl_operand* scores
        Py_ssize_t topk
        int bad

    ctypedef struct fl_seam:
        char* at
        size_t bytes

    ctypedef struct fl_rows:
        int64_t[LANES] y
        double[LANES] w, label_logit, top, sum, others, over, dot, mass, ahead, ahead_low
        double[LANES] loss, first, second, target_top, target_sum, kept
        Py_ssize_t row, n, j, step
        int skips
        void* e

    ctypedef struct fl_workspace:
        double[BLOCK] pred, target, extra, weight, loss, grad, hess
        double[8] before_grad, before_hess
        double[LANES] top, near, factor, inverse, first, second, first_up, second_up
        double[LANES] unscale, one_minus, scale
        double[2 * LANES] total, below
        double[2 * LANES] dot, mass
        double[2] by
        fl_seam[2] seams
        double[8] before

    ctypedef void (*fl_driver)(fl_call*, Py_ssize_t, fl_workspace*) noexcept nogil

    ctypedef struct fl_drivers:
        fl_driver[2] elementwise
        fl_driver[2] rows
        fl_driver[2] terms
        fl_driver[2] weigh
        fl_driver[2] tile_sums
        fl_driver[2] tiles
        fl_driver[2] scores

    ctypedef struct fl_mode:
        pass

    void fl_add_step_f32(double*, float*, Py_ssize_t)
    void fl_add_step_f64(double*, double*, Py_ssize_t)
    int fl_outside_f32(const fl_call*, const float*, const float*, Py_ssize_t)
    int fl_outside_f64(const fl_call*, const double*, const double*, Py_ssize_t)
    fl_mode fl_enter(bint)
    void fl_leave(fl_mode)
    void fl_run(fl_driver, fl_call*, Py_ssize_t, fl_workspace*)
    char* fl_row(const fl_operand*, Py_ssize_t)
    void fl_load_f32(float*, const char*, Py_ssize_t, Py_ssize_t, int)
    void fl_load_f64(double*, const char*, Py_ssize_t, Py_ssize_t, int)
    void fl_load_i64(int64_t*, const char*, Py_ssize_t, Py_ssize_t, int)
    void fl_store_f32(char*, const float*, Py_ssize_t, Py_ssize_t, int, int)
    void fl_store_f64(char*, const double*, Py_ssize_t, Py_ssize_t, int, int)
    void fl_to_columns_f32(float*, const char*, Py_ssize_t, Py_ssize_t, Py_ssize_t)
    void fl_to_columns_f64(double*, const char*, Py_ssize_t, Py_ssize_t, Py_ssize_t)
    void fl_from_columns_f32(char*, const float*, Py_ssize_t, Py_ssize_t, Py_ssize_t)
    void fl_from_columns_f64(char*, const double*, Py_ssize_t, Py_ssize_t, Py_ssize_t)
    void fl_prefetch(const char*, Py_ssize_t, bint)
    void fl_copy_pieces(char*, Py_ssize_t, const char*, Py_ssize_t, Py_ssize_t, Py_ssize_t, bint)
    uint64_t fl_among(const int64_t*, Py_ssize_t, Py_ssize_t, Py_ssize_t)
    int fl_lowest(uint64_t)
    void fl_prefetch_pieces(const char*, Py_ssize_t, Py_ssize_t, Py_ssize_t)
    void fl_prefetch_page(const char*, Py_ssize_t, bint)
    void fl_stream_piece(char*, const char*, size_t, char*, bint, bint)
    void fl_stream_in_plane(char*, const char*, size_t, char*, char*, size_t, char*, char*)
    void fl_stream_on(fl_seam*, char*, char*, size_t)
    void fl_close_seam(fl_seam*, const char*)
    void fl_stream_fence()
