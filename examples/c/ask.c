/* ask MODEL POLICY PROMPT: reads a prompt under a policy, says what was kept, answers. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <winnow/winnow.h>

static void check(winnow_status status) {
  if (status == WINNOW_OK) return;
  fprintf(stderr, "ask: %s: %s\n", winnow_status_name(status), winnow_error_message());
  exit(1);
}

static int print_part(int32_t token, const char *text, size_t bytes, void *user_data) {
  (void)token;
  (void)user_data;
  fwrite(text, 1, bytes, stdout);
  return fflush(stdout);
}

int main(int argc, char **argv) {
  winnow_engine_options engine_options;
  winnow_generate_options generate_options;
  winnow_stats stats;
  winnow_answer answer;
  winnow_engine *engine;
  winnow_policy *policy;
  winnow_session *session;
  int32_t *tokens;
  size_t count, stages, i;

  if (argc != 4) {
    fprintf(stderr, "usage: ask MODEL POLICY PROMPT\n");
    return 2;
  }
  WINNOW_INIT(engine_options);
  engine_options.model = argv[1];
  check(winnow_engine_open(&engine_options, &engine));
  check(winnow_policy_parse(engine, argv[2], &policy));
  check(winnow_tokenize(engine, argv[3], strlen(argv[3]), 0, &tokens, &count));
  check(winnow_session_open(engine, &session));
  check(winnow_session_prefill(session, tokens, count, policy, NULL));

  check(winnow_session_stages(session, &stages));
  for (i = 0; i < stages; ++i) {
    winnow_stage stage;
    WINNOW_INIT(stage);
    check(winnow_session_stage(session, i, &stage));
    fprintf(stderr, "before layer %lld: %lld of %lld tokens go on\n", (long long)stage.layer,
            (long long)stage.tokens_kept, (long long)stage.tokens_before);
  }
  WINNOW_INIT(stats);
  check(winnow_session_stats(session, &stats));
  fprintf(stderr, "%lld tokens read in %.0f ms\n", (long long)stats.prompt_tokens, stats.prefill_ms);

  WINNOW_INIT(generate_options);
  WINNOW_INIT(answer);
  generate_options.max_new_tokens = 20;
  generate_options.on_token = print_part;
  check(winnow_generate(session, &generate_options, &answer));
  printf("\n");

  winnow_free(answer.tokens);
  winnow_free(answer.text);
  winnow_free(tokens);
  winnow_session_close(session);
  winnow_policy_free(policy);
  winnow_engine_close(engine);
  return 0;
}
