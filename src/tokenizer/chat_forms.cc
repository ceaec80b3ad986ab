#include "tokenizer/chat_forms.h"

namespace winnow {
namespace {

constexpr std::string_view kAny = kAnyPart, kDefault = kDefaultPart;

// ---- ChatML

constexpr std::string_view kPromptEnd =
    R"({%if add_generation_prompt%}{{'<|im_start|>assistant\n'}}{%endif%})";

constexpr std::string_view kPlainChatml[] = {
    R"({%for message in messages%}{{'<|im_start|>'+message.role+'\n'+message.content+'<|im_end|>'+'\n'}}{%endfor%})",
    kPromptEnd};

constexpr std::string_view kSmolLm2AndQwen2[] = {
    R"({%for message in messages%}{%if loop.first and messages[0].role!='system'%}{{'<|im_start|>system\n)",
    kDefault,
    R"(<|im_end|>\n'}}{%endif%}{{'<|im_start|>'+message.role+'\n'+message.content+'<|im_end|>'+'\n'}}{%endfor%})",
    kPromptEnd};

constexpr std::string_view kQwen2_5[] = {
    R"({%if tools%})",
    kAny,
    R"({%else%}{%if messages[0].role=='system'%}{{'<|im_start|>system\n'+messages[0].content+'<|im_end|>\n'}})"
    R"({%else%}{{'<|im_start|>system\n)",
    kDefault,
    R"(<|im_end|>\n'}}{%endif%}{%endif%}{%for message in messages%}{%if(message.role=='user')or)"
    R"((message.role=='system'and not loop.first)or(message.role=='assistant'and not message.tool_calls)%})"
    R"({{'<|im_start|>'+message.role+'\n'+message.content+'<|im_end|>'+'\n'}}{%elif message.role=='assistant'%})",
    kAny,
    R"({%endif%}{%endfor%})",
    kPromptEnd};

constexpr std::string_view kQwen3Head =
    R"({%else%}{%if messages[0].role=='system'%}{{'<|im_start|>system\n'+messages[0].content+'<|im_end|>\n'}})"
    R"({%endif%}{%endif%}{%set ns=namespace(multi_step_tool=true,last_query_index=messages|length-1)%})"
    R"({%for message in messages[::-1]%}{%set index=(messages|length-1)-loop.index0%})"
    R"({%if ns.multi_step_tool and message.role=='user'and)";
constexpr std::string_view kQwen3LastQuery =
    R"({%set ns.multi_step_tool=false%}{%set ns.last_query_index=index%}{%endif%}{%endfor%})"
    R"({%for message in messages%})";
constexpr std::string_view kQwen3Thinking =
    R"({%endif%}{%endif%}{%if loop.index0>ns.last_query_index%})"
    R"({%if loop.last or(not loop.last and reasoning_content)%}{{'<|im_start|>'+message.role+'\n<think>\n'+)"
    R"(reasoning_content.strip('\n')+'\n</think>\n\n'+content.lstrip('\n')}}{%else%})"
    R"({{'<|im_start|>'+message.role+'\n'+content}}{%endif%}{%else%}{{'<|im_start|>'+message.role+'\n'+content}})"
    R"({%endif%}{%if message.tool_calls%})";
constexpr std::string_view kQwen3End =
    R"({%endif%}{%endfor%}{%if add_generation_prompt%}{{'<|im_start|>assistant\n'}})"
    R"({%if enable_thinking is defined and enable_thinking is false%}{{'<think>\n\n</think>\n\n'}}{%endif%})"
    R"({%endif%})";

constexpr std::string_view kQwen3[] = {
    R"({%if tools%})",
    kAny,
    kQwen3Head,
    R"( not(message.content.startswith('<tool_response>')and message.content.endswith('</tool_response>'))%})",
    kQwen3LastQuery,
    R"({%if(message.role=='user')or(message.role=='system'and not loop.first)%})"
    R"({{'<|im_start|>'+message.role+'\n'+message.content+'<|im_end|>'+'\n'}}{%elif message.role=='assistant'%})"
    R"({%set content=message.content%}{%set reasoning_content=''%})"
    R"({%if message.reasoning_content is defined and message.reasoning_content is not none%})"
    R"({%set reasoning_content=message.reasoning_content%}{%else%}{%if'</think>'in message.content%})"
    R"({%set content=message.content.split('</think>')[-1].lstrip('\n')%}{%set reasoning_content=)"
    R"(message.content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n')%})",
    kQwen3Thinking,
    kAny,
    R"({%endif%}{{'<|im_end|>\n'}}{%elif message.role=='tool'%})",
    kAny,
    kQwen3End};

// The later revision, which also takes messages whose content is no string.
constexpr std::string_view kQwen3Later[] = {
    R"({%if tools%})",
    kAny,
    kQwen3Head,
    R"( message.content is string and)",
    R"( not(message.content.startswith('<tool_response>')and message.content.endswith('</tool_response>'))%})",
    kQwen3LastQuery,
    R"({%if message.content is string%}{%set content=message.content%}{%else%}{%set content=''%}{%endif%})"
    R"({%if(message.role=='user')or(message.role=='system'and not loop.first)%})"
    R"({{'<|im_start|>'+message.role+'\n'+content+'<|im_end|>'+'\n'}}{%elif message.role=='assistant'%})"
    R"({%set reasoning_content=''%}{%if message.reasoning_content is string%})"
    R"({%set reasoning_content=message.reasoning_content%}{%else%}{%if'</think>'in content%}{%set reasoning_content=)"
    R"(content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n')%})"
    R"({%set content=content.split('</think>')[-1].lstrip('\n')%})",
    kQwen3Thinking,
    kAny,
    R"({%endif%}{{'<|im_end|>\n'}}{%elif message.role=='tool'%})",
    kAny,
    kQwen3End};

// ---- Llama, Mistral, Gemma

constexpr std::string_view kLlama2Form[] = {
    R"({%if messages[0].role=='system'%}{%set loop_messages=messages[1:]%})"
    R"({%set system_message=messages[0].content%}{%else%}{%set loop_messages=messages%})"
    R"({%set system_message=false%}{%endif%}{%for message in loop_messages%})"
    R"({%if(message.role=='user')!=(loop.index0%2==0)%})"
    R"({{raise_exception('Conversation roles must alternate user/assistant/user/assistant/...')}})"
    R"({%endif%}{%if loop.index0==0 and system_message!=false%})"
    R"({%set content='<<SYS>>\n'+system_message+'\n<</SYS>>\n\n'+message.content%}{%else%})"
    R"({%set content=message.content%}{%endif%}{%if message.role=='user'%})"
    R"({{bos_token+'[INST] '+content.strip()+' [/INST]'}}{%elif message.role=='assistant'%})"
    R"({{' '+content.strip()+' '+eos_token}}{%endif%}{%endfor%})"};

constexpr std::string_view kLlama3Form[] = {
    R"({%set loop_messages=messages%}{%for message in loop_messages%})"
    R"({%set content='<|start_header_id|>'+message.role+'<|end_header_id|>\n\n'+message.content|trim+')"
    R"(<|eot_id|>'%}{%if loop.index0==0%}{%set content=bos_token+content%}{%endif%}{{content}})"
    R"({%endfor%}{%if add_generation_prompt%}{{'<|start_header_id|>assistant<|end_header_id|>\n\n'}})"
    R"({%endif%})"};

constexpr std::string_view kLlama3AskingForm[] = {
    R"({%set loop_messages=messages%}{%for message in loop_messages%})"
    R"({%set content='<|start_header_id|>'+message.role+'<|end_header_id|>\n\n'+message.content|trim+')"
    R"(<|eot_id|>'%}{%if loop.index0==0%}{%set content=bos_token+content%}{%endif%}{{content}})"
    R"({%endfor%}{{'<|start_header_id|>assistant<|end_header_id|>\n\n'}})"};

constexpr std::string_view kLlama3_1[] = {
    R"({{bos_token}}{%if custom_tools is defined%}{%set tools=custom_tools%}{%endif%})"
    R"({%if not tools_in_user_message is defined%}{%set tools_in_user_message=true%}{%endif%})"
    R"({%if not date_string is defined%}{%set date_string='26 Jul 2024'%}{%endif%})"
    R"({%if not tools is defined%}{%set tools=none%}{%endif%}{%if messages[0].role=='system'%})"
    R"({%set system_message=messages[0].content|trim%}{%set messages=messages[1:]%}{%else%})"
    R"({%set system_message=''%}{%endif%}{{'<|start_header_id|>system<|end_header_id|>\n\n'}})"
    R"({%if builtin_tools is defined or tools is not none%}{{'Environment: ipython\n'}}{%endif%})"
    R"({%if builtin_tools is defined%})",
    kAny,
    R"({%endif%}{{'Cutting Knowledge Date: December 2023\n'}}{{'Today Date: '+date_string+'\n\n'}})"
    R"({%if tools is not none and not tools_in_user_message%})",
    kAny,
    R"({%endif%}{{system_message}}{{'<|eot_id|>'}}{%if tools_in_user_message and not tools is none%})",
    kAny,
    R"({%endif%}{%for message in messages%})"
    R"({%if not(message.role=='ipython'or message.role=='tool'or'tool_calls'in message)%})"
    R"({{'<|start_header_id|>'+message.role+'<|end_header_id|>\n\n'+message.content|trim+'<|eot_id|>'})"
    R"(}{%elif'tool_calls'in message%})",
    kAny,
    R"({%endif%}{%endfor%}{%if add_generation_prompt%})"
    R"({{'<|start_header_id|>assistant<|end_header_id|>\n\n'}}{%endif%})"};

constexpr std::string_view kLlama3_2[] = {
    R"({{bos_token}}{%if custom_tools is defined%}{%set tools=custom_tools%}{%endif%})"
    R"({%if not tools_in_user_message is defined%}{%set tools_in_user_message=true%}{%endif%})"
    R"({%if not date_string is defined%}{%if strftime_now is defined%})"
    R"({%set date_string=strftime_now('%d %b %Y')%}{%else%}{%set date_string='26 Jul 2024'%}{%endif%})"
    R"({%endif%}{%if not tools is defined%}{%set tools=none%}{%endif%})"
    R"({%if messages[0].role=='system'%}{%set system_message=messages[0].content|trim%})"
    R"({%set messages=messages[1:]%}{%else%}{%set system_message=''%}{%endif%})"
    R"({{'<|start_header_id|>system<|end_header_id|>\n\n'}}{%if tools is not none%})"
    R"({{'Environment: ipython\n'}}{%endif%}{{'Cutting Knowledge Date: December 2023\n'}})"
    R"({{'Today Date: '+date_string+'\n\n'}}{%if tools is not none and not tools_in_user_message%})",
    kAny,
    R"({%endif%}{{system_message}}{{'<|eot_id|>'}}{%if tools_in_user_message and not tools is none%})",
    kAny,
    R"({%endif%}{%for message in messages%})"
    R"({%if not(message.role=='ipython'or message.role=='tool'or'tool_calls'in message)%})"
    R"({{'<|start_header_id|>'+message.role+'<|end_header_id|>\n\n'+message.content|trim+'<|eot_id|>'})"
    R"(}{%elif'tool_calls'in message%})",
    kAny,
    R"({%endif%}{%endfor%}{%if add_generation_prompt%})"
    R"({{'<|start_header_id|>assistant<|end_header_id|>\n\n'}}{%endif%})"};

constexpr std::string_view kMistralV01Form[] = {
    R"({{bos_token}}{%for message in messages%}{%if(message.role=='user')!=(loop.index0%2==0)%})"
    R"({{raise_exception('Conversation roles must alternate user/assistant/user/assistant/...')}})"
    R"({%endif%}{%if message.role=='user'%}{{'[INST] '+message.content+' [/INST]'}})"
    R"({%elif message.role=='assistant'%}{{message.content+eos_token+' '}}{%else%})"
    R"({{raise_exception('Only user and assistant roles are supported!')}}{%endif%}{%endfor%})"};

constexpr std::string_view kMistralV02Form[] = {
    R"({{bos_token}}{%for message in messages%}{%if(message.role=='user')!=(loop.index0%2==0)%})"
    R"({{raise_exception('Conversation roles must alternate user/assistant/user/assistant/...')}})"
    R"({%endif%}{%if message.role=='user'%}{{'[INST] '+message.content+' [/INST]'}})"
    R"({%elif message.role=='assistant'%}{{message.content+eos_token}}{%else%})"
    R"({{raise_exception('Only user and assistant roles are supported!')}}{%endif%}{%endfor%})"};

constexpr std::string_view kMistralV1Form[] = {
    R"({%if messages[0].role=='system'%}{%set system_message=messages[0].content%})"
    R"({%set loop_messages=messages[1:]%}{%else%}{%set loop_messages=messages%}{%endif%}{{bos_token}})"
    R"({%for message in loop_messages%}{%if(message.role=='user')!=(loop.index0%2==0)%})"
    R"({{raise_exception('After the optional system message, conversation roles must alternate user/as)"
    R"(sistant/user/assistant/...')}}{%endif%}{%if message.role=='user'%})"
    R"({%if loop.first and system_message is defined%})"
    R"({{' [INST] '+system_message+'\n\n'+message.content+' [/INST]'}}{%else%})"
    R"({{' [INST] '+message.content+' [/INST]'}}{%endif%}{%elif message.role=='assistant'%})"
    R"({{' '+message.content+eos_token}}{%else%})"
    R"({{raise_exception('Only user and assistant roles are supported, with the exception of an initia)"
    R"(l optional system message!')}}{%endif%}{%endfor%})"};

constexpr std::string_view kMistralV3Form[] = {
    R"({%if messages[0].role=='system'%}{%set system_message=messages[0].content%})"
    R"({%set loop_messages=messages[1:]%}{%else%}{%set loop_messages=messages%}{%endif%})"
    R"({%if not tools is defined%}{%set tools=none%}{%endif%})"
    R"({%set user_messages=loop_messages|selectattr('role','equalto','user')|list%})"
    R"({%set ns=namespace()%}{%set ns.index=0%}{%for message in loop_messages%})"
    R"({%if not(message.role=='tool'or message.role=='tool_results'or(message.tool_calls is defined an)"
    R"(d message.tool_calls is not none))%}{%if(message.role=='user')!=(ns.index%2==0)%})"
    R"({{raise_exception('After the optional system message, conversation roles must alternate user/as)"
    R"(sistant/user/assistant/...')}}{%endif%}{%set ns.index=ns.index+1%}{%endif%}{%endfor%})"
    R"({{bos_token}}{%for message in loop_messages%}{%if message.role=='user'%})"
    R"({%if tools is not none and(message==user_messages[-1])%})",
    kAny,
    R"({%endif%}{%if loop.last and system_message is defined%})"
    R"({{'[INST] '+system_message+'\n\n'+message.content+'[/INST]'}}{%else%})"
    R"({{'[INST] '+message.content+'[/INST]'}}{%endif%})"
    R"({%elif message.tool_calls is defined and message.tool_calls is not none%})",
    kAny,
    R"({%elif message.role=='assistant'%}{{' '+message.content|trim+eos_token}})"
    R"({%elif message.role=='tool_results'or message.role=='tool'%})",
    kAny,
    R"({%else%})"
    R"({{raise_exception('Only user and assistant roles are supported, with the exception of an initia)"
    R"(l optional system message!')}}{%endif%}{%endfor%})"};

constexpr std::string_view kMistralNemoForm[] = {
    R"({%if messages[0].role=='system'%}{%set system_message=messages[0].content%})"
    R"({%set loop_messages=messages[1:]%}{%else%}{%set loop_messages=messages%}{%endif%})"
    R"({%if not tools is defined%}{%set tools=none%}{%endif%})"
    R"({%set user_messages=loop_messages|selectattr('role','equalto','user')|list%})"
    R"({%set ns=namespace()%}{%set ns.index=0%}{%for message in loop_messages%})"
    R"({%if not(message.role=='tool'or message.role=='tool_results'or(message.tool_calls is defined an)"
    R"(d message.tool_calls is not none))%}{%if(message.role=='user')!=(ns.index%2==0)%})"
    R"({{raise_exception('After the optional system message, conversation roles must alternate user/as)"
    R"(sistant/user/assistant/...')}}{%endif%}{%set ns.index=ns.index+1%}{%endif%}{%endfor%})"
    R"({{bos_token}}{%for message in loop_messages%}{%if message.role=='user'%})"
    R"({%if tools is not none and(message==user_messages[-1])%})",
    kAny,
    R"({%endif%}{%if loop.last and system_message is defined%})"
    R"({{'[INST]'+system_message+'\n\n'+message.content+'[/INST]'}}{%else%})"
    R"({{'[INST]'+message.content+'[/INST]'}}{%endif%})"
    R"({%elif(message.tool_calls is defined and message.tool_calls is not none)%})",
    kAny,
    R"({%elif message.role=='assistant'%}{{message.content+eos_token}})"
    R"({%elif message.role=='tool_results'or message.role=='tool'%})",
    kAny,
    R"({%else%})"
    R"({{raise_exception('Only user and assistant roles are supported, with the exception of an initia)"
    R"(l optional system message!')}}{%endif%}{%endfor%})"};

constexpr std::string_view kMistralV7Form[] = {
    R"({{bos_token}}{%for message in messages%}{%if message.role=='user'%})"
    R"({{'[INST] '+message.content+'[/INST]'}}{%elif message.role=='system'%})"
    R"({{'[SYSTEM_PROMPT] '+message.content+'[/SYSTEM_PROMPT]'}}{%elif message.role=='assistant'%})"
    R"({{' '+message.content+eos_token}}{%else%})"
    R"({{raise_exception('Only user, system and assistant roles are supported!')}}{%endif%}{%endfor%})"};

constexpr std::string_view kGemmaForm[] = {
    R"({{bos_token}}{%if messages[0].role=='system'%}{{raise_exception('System role not supported')}})"
    R"({%endif%}{%for message in messages%}{%if(message.role=='user')!=(loop.index0%2==0)%})"
    R"({{raise_exception('Conversation roles must alternate user/assistant/user/assistant/...')}})"
    R"({%endif%}{%if(message.role=='assistant')%}{%set role='model'%}{%else%})"
    R"({%set role=message.role%}{%endif%})"
    R"({{'<start_of_turn>'+role+'\n'+message.content|trim+'<end_of_turn>\n'}}{%endfor%})"
    R"({%if add_generation_prompt%}{{'<start_of_turn>model\n'}}{%endif%})"};

constexpr std::string_view kGemma3Form[] = {
    R"({{bos_token}}{%if messages[0].role=='system'%}{%if messages[0].content is string%})"
    R"({%set first_user_prefix=messages[0].content+'\n\n'%}{%else%})"
    R"({%set first_user_prefix=messages[0].content[0].text+'\n\n'%}{%endif%})"
    R"({%set loop_messages=messages[1:]%}{%else%}{%set first_user_prefix=''%})"
    R"({%set loop_messages=messages%}{%endif%}{%for message in loop_messages%})"
    R"({%if(message.role=='user')!=(loop.index0%2==0)%})"
    R"({{raise_exception('Conversation roles must alternate user/assistant/user/assistant/...')}})"
    R"({%endif%}{%if(message.role=='assistant')%}{%set role='model'%}{%else%})"
    R"({%set role=message.role%}{%endif%})"
    R"({{'<start_of_turn>'+role+'\n'+(first_user_prefix if loop.first else'')}})"
    R"({%if message.content is string%}{{message.content|trim}}{%elif message.content is iterable%})"
    R"({%for item in message.content%}{%if item.type=='image'%}{{'<start_of_image>'}})"
    R"({%elif item.type=='text'%}{{item.text|trim}}{%endif%}{%endfor%}{%else%})"
    R"({{raise_exception('Invalid content type')}}{%endif%}{{'<end_of_turn>\n'}}{%endfor%})"
    R"({%if add_generation_prompt%}{{'<start_of_turn>model\n'}}{%endif%})"};

constexpr ChatForm kForms[] = {
    {kPlainChatml, kChatml},
    {kSmolLm2AndQwen2, kChatml},
    {kQwen2_5, kChatml},
    {kQwen3, kChatmlThinking},
    {kQwen3Later, kChatmlThinking},
    {kLlama2Form, kLlama2},
    {kLlama3Form, kLlama3},
    {kLlama3AskingForm, kLlama3Asking},
    {kLlama3_1, kLlama3Dated},
    {kLlama3_2, kLlama3Dated},
    {kMistralV01Form, kMistralV01},
    {kMistralV02Form, kMistralV02},
    {kMistralV1Form, kMistralV1},
    {kMistralV3Form, kMistralV3},
    {kMistralNemoForm, kMistralNemo},
    {kMistralV7Form, kMistralV7},
    {kGemmaForm, kGemma},
    {kGemma3Form, kGemma3},
};

}  // namespace

std::span<const ChatForm> chat_forms() { return kForms; }

}  // namespace winnow
