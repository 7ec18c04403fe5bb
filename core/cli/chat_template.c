/* The list of templates, and choosing from it; see chat_template.h. */
#include "cli/chat_template.h"

#include <string.h>

#include "util/text.h"

static const pico_chat_template templates[] = {
    {.name = "chatml",
     .mark = "<|im_start|>",
     .system_before = "<|im_start|>system\n",
     .system_after = "<|im_end|>\n",
     .user_before = "<|im_start|>user\n",
     .user_after = "<|im_end|>\n",
     .answer_before = "<|im_start|>assistant\n",
     .answer_after = "<|im_end|>\n"},
    {.name = "llama3",
     .mark = "<|start_header_id|>",
     .system_before = "<|start_header_id|>system<|end_header_id|>\n\n",
     .system_after = "<|eot_id|>",
     .user_before = "<|start_header_id|>user<|end_header_id|>\n\n",
     .user_after = "<|eot_id|>",
     .answer_before = "<|start_header_id|>assistant<|end_header_id|>\n\n",
     .answer_after = "<|eot_id|>"},
    {.name = "nanochat",
     .mark = "<|user_start|>",
     .begin = "<|bos|>",
     .system_before = "",
     .system_after = "\n\n",
     .user_before = "<|user_start|>",
     .user_after = "<|user_end|>",
     .answer_before = "<|assistant_start|>",
     .answer_after = "<|assistant_end|>",
     .python_before = "<|python_start|>",
     .python_after = "<|python_end|>",
     .output_before = "<|output_start|>",
     .output_after = "<|output_end|>",
     .system_in_user = 1},
    {.name = "llama2",
     .mark = "[INST]",
     .system_before = "<<SYS>>\n",
     .system_after = "\n<</SYS>>\n\n",
     .user_before = "[INST] ",
     .user_after = " [/INST]",
     .answer_before = "",
     .answer_after = "</s><s>",
     .system_in_user = 1},
    {.name = "plain",
     .mark = NULL,
     .system_before = "",
     .system_after = "\n\n",
     .user_before = "User: ",
     .user_after = "\n",
     .answer_before = "Assistant:",
     .answer_after = "\n",
     .n_stop = 1,
     .stop = {"\nUser:"}}};

enum { N_TEMPLATES = sizeof templates / sizeof *templates };

static int has_piece(const pico_vocab *vocab, const char *text) {
    size_t n = strlen(text);
    for (uint32_t i = 0; i < vocab->n_piece; i++) {
        if (vocab->piece[i].n == n && memcmp(vocab->piece[i].text, text, n) == 0) {
            return 1;
        }
    }
    return 0;
}

static const pico_chat_template *recognise(const pico_vocab *vocab, int *known) {
    const char *own = vocab->chat_template;
    for (size_t i = 0; i + 1 < N_TEMPLATES; i++) {
        const char *mark = templates[i].mark;
        /* Without a template the vocabulary still tells, where its marks are tokens. */
        if (own != NULL ? strstr(own, mark) != NULL : mark[0] == '<' && has_piece(vocab, mark)) {
            return &templates[i];
        }
    }
    *known = own == NULL;
    return &templates[N_TEMPLATES - 1];
}

static pico_status fail_name(const char *choice, pico_error *err) {
    const char *names[N_TEMPLATES + 1] = {"auto"};
    char list[128];
    size_t used = 0;
    for (size_t i = 0; i < N_TEMPLATES; i++) {
        names[i + 1] = templates[i].name;
        used += (size_t)snprintf(list + used, sizeof list - used, ", %s", templates[i].name);
    }
    const char *near = pico_text_nearest(choice, names, N_TEMPLATES + 1);
    if (near != NULL) {
        return pico_fail(err, PICO_E_NOT_FOUND,
                         "there is no chat template '%.80s'; did you mean "
                         "%s?",
                         choice, near);
    }
    return pico_fail(err, PICO_E_NOT_FOUND,
                     "there is no chat template '%.80s'; expected auto%s, or a file, with a '/' in "
                     "its path (./mine.ini)",
                     choice, list);
}

pico_status pico_chat_template_select(const char *choice, const pico_vocab *vocab,
                                      pico_arena *arena, pico_chat_template *out, int *known,
                                      pico_error *err) {
    *known = 1;
    if (strchr(choice, '/') != NULL) {
        return pico_chat_template_read(choice, arena, out, err);
    }
    if (strcmp(choice, "auto") == 0) {
        *out = *recognise(vocab, known);
        return PICO_OK;
    }
    for (size_t i = 0; i < N_TEMPLATES; i++) {
        if (strcmp(choice, templates[i].name) == 0) {
            *out = templates[i];
            return PICO_OK;
        }
    }
    return fail_name(choice, err);
}
