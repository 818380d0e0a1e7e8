#include "guard.h"
#include "watch.h"

#include "mtmd-helper.h"
#include "mtmd.h"

#include <algorithm>
#include <memory>

using llc::guarded;

namespace {

struct batch_deleter {
    void operator()(mtmd_batch * batch) const { mtmd_batch_free(batch); }
};

// Upstream switches causal attention on after an image that was decoded without it, whatever it was before.
class causal_attn_kept {
  public:
    explicit causal_attn_kept(struct llama_context * ctx) : ctx_(ctx), causal_(llama_get_causal_attn(ctx)) {}
    ~causal_attn_kept() { llama_set_causal_attn(ctx_, causal_); }

  private:
    struct llama_context * ctx_;
    bool                   causal_;
};

} // namespace

enum llc_status llc_mtmd_load(
        const char * path, const struct llama_model * model, const struct mtmd_context_params * params,
        struct mtmd_context ** mtmd) {
    *mtmd = nullptr;
    return guarded([&] {
        *mtmd = mtmd_init_from_file(path, model, *params);
        return *mtmd != nullptr ? LLC_OK : LLC_FAILED;
    });
}

enum llc_status llc_mtmd_caps(const char * path, bool * vision, bool * audio) {
    *vision = *audio = false;
    return guarded([&] {
        const auto caps = mtmd_get_cap_from_file(path);
        *vision = caps.inp_vision;
        *audio  = caps.inp_audio;
        return *vision || *audio ? LLC_OK : LLC_FAILED;
    });
}

enum llc_status llc_mtmd_bitmap_image(
        uint32_t width, uint32_t height, const uint8_t * rgb, const char * id, bool mergeable,
        struct mtmd_bitmap ** bitmap) {
    *bitmap = nullptr;
    return guarded([&] {
        mtmd::bitmap_ptr result(mtmd_bitmap_init(width, height, rgb));
        mtmd_bitmap_set_id(result.get(), id);
        mtmd_bitmap_set_mergeable(result.get(), mergeable);
        *bitmap = result.release();
        return LLC_OK;
    });
}

enum llc_status llc_mtmd_bitmap_audio(
        size_t n_samples, const float * samples, const char * id, struct mtmd_bitmap ** bitmap) {
    *bitmap = nullptr;
    return guarded([&] {
        mtmd::bitmap_ptr result(mtmd_bitmap_init_from_audio(n_samples, samples));
        mtmd_bitmap_set_id(result.get(), id);
        *bitmap = result.release();
        return LLC_OK;
    });
}

enum llc_status llc_mtmd_bitmap_read(
        const struct mtmd_context * mtmd, const uint8_t * data, size_t size, bool placeholder, const char * ffmpeg_dir,
        struct mtmd_bitmap ** bitmap) {
    *bitmap = nullptr;
    return guarded([&] {
        auto options = mtmd_helper_init_opt_default();
        options.video_params.ffmpeg_bin_dir = ffmpeg_dir;
        const auto       read = mtmd_helper_bitmap_init_from_buf(mtmd, data, size, placeholder, options);
        mtmd::bitmap_ptr result(read.bitmap);
        if (read.video_ctx != nullptr) {
            mtmd_helper_video_free(read.video_ctx);
            throw llc::invalid_argument("this is a video");
        }
        *bitmap = result.release();
        return *bitmap != nullptr ? LLC_OK : LLC_FAILED;
    });
}

enum llc_status llc_mtmd_tokenize(
        const struct mtmd_context * mtmd, const struct mtmd_input_part ** parts, size_t n_parts, bool add_special,
        struct mtmd_input_chunks ** chunks) {
    *chunks = nullptr;
    return guarded([&] {
        mtmd::input_chunks_ptr result(mtmd_input_chunks_init());
        if (mtmd_tokenize_from_parts(mtmd, result.get(), parts, n_parts, add_special) != 0) {
            return LLC_FAILED;
        }
        *chunks = result.release();
        return LLC_OK;
    });
}

enum llc_status llc_mtmd_encode(
        struct mtmd_context * mtmd, const struct mtmd_input_chunk ** chunks, size_t n_chunks, size_t n_embd,
        float * embd) {
    return guarded([&] {
        for (size_t i = 0; i < n_chunks;) {
            const std::unique_ptr<mtmd_batch, batch_deleter> batch(mtmd_batch_init(mtmd));
            size_t end = i;
            while (end < n_chunks && mtmd_batch_add_chunk(batch.get(), chunks[end]) == 0) {
                ++end;
            }
            if (end == i || mtmd_batch_encode(batch.get()) != 0) {
                return LLC_FAILED;
            }
            for (; i < end; ++i) {
                const float * rows = mtmd_batch_get_output_embd(batch.get(), chunks[i]);
                embd = std::copy_n(rows, mtmd_input_chunk_get_n_tokens(chunks[i]) * n_embd, embd);
            }
        }
        return LLC_OK;
    });
}

enum llc_status llc_mtmd_decode(
        struct mtmd_context * mtmd, struct llama_context * ctx, const struct mtmd_input_chunk * chunk,
        const float * embd, llama_pos n_past, llama_seq_id seq, int32_t n_batch, bool logits_last,
        llama_pos * new_n_past, int32_t * code) {
    *new_n_past = n_past;
    *code       = 0;
    return guarded([&] {
        const llc::decode_scope computing(ctx);
        const causal_attn_kept scope(ctx);
        if (mtmd_input_chunk_get_type(chunk) == MTMD_INPUT_CHUNK_TYPE_TEXT) {
            *code = mtmd_helper_eval_chunk_single(
                    mtmd, ctx, chunk, n_past, seq, n_batch, logits_last, new_n_past);
        } else {
            *code = mtmd_helper_decode_image_chunk(
                    mtmd, ctx, chunk, const_cast<float *>(embd), n_past, seq, n_batch, new_n_past, nullptr, nullptr);
        }
        computing.computed();
        return *code == 0 ? LLC_OK : LLC_FAILED;
    });
}

enum llc_status llc_mtmd_video_open(
        const struct mtmd_context * mtmd, const char * path, const uint8_t * data, size_t size,
        const struct mtmd_helper_video_init_params * params, struct mtmd_helper_video ** video) {
    *video = nullptr;
    return guarded([&] {
        *video = path != nullptr ? mtmd_helper_video_init(mtmd, path, *params)
                                 : mtmd_helper_video_init_from_buf(mtmd, data, size, *params);
        return *video != nullptr ? LLC_OK : LLC_FAILED;
    });
}

enum llc_status llc_mtmd_video_next(struct mtmd_helper_video * video, struct mtmd_bitmap ** bitmap, char ** text) {
    *bitmap = nullptr;
    *text   = nullptr;
    return guarded([&] {
        const int32_t code = mtmd_helper_video_read_next(video, bitmap, text);
        return code == 0 || code == -1 ? LLC_OK : LLC_FAILED; // -1: the end, where both stay null
    });
}
