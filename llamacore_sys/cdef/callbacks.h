/* Python functions that C may call; only slow calls that the user waits for do so, never a decode. */

/* llama_model_params.progress_callback; user_data is an ffi handle of llamacore.core.model */
extern "Python" bool llamacore_on_progress(float progress, void * user_data);
