from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.contracts import Answered, Finding, Room
from potstill.plugins import load_plugin
from potstill.types import Example, Message, Reply

ROW = Example("row", (Message("user", "Well?"),))
DECLINES = [
    "I'm sorry, but I can't help with that.",
    "I’m sorry, I can’t assist with that request.",
    "I am sorry, but I cannot answer this question.",
    "Sorry, I can't do that.",
    "Sorry, but I cannot provide medical advice. Please see a doctor.",
    "I cannot assist with this.",
    "I can't help you with this request, as it may be harmful.",
    "I'm unable to help with that.",
    "I am not able to provide instructions for that.",
    "I won't help with this.",
    "I must decline to answer.",
    "I'm going to have to decline to help with this one.",
    "I don't feel comfortable answering that question.",
    "Unfortunately, I cannot fulfill your request.",
    "I apologize, but I'm not able to generate explicit content.",
    "My apologies, but I cannot comply with that.",
    "As an AI language model, I don't have personal opinions.",
    "As an AI assistant, I cannot engage in this kind of talk.",
    "I understand your concern, but I can't provide legal advice.",
    "Thank you for your question. Unfortunately, I can't assist with this topic.",
    "Hello! I'm sorry, but I can't help with that.",
    "\"I'm sorry, but I can't help with that.\"",
    "I'm really sorry that you're feeling this way, but I'm unable to provide the help that you need.",
    "I cannot and will not provide instructions for that.",
    "This request violates my guidelines.",
    "It would be inappropriate for me to answer.",
    "<think>Is that allowed? No.</think>I'm sorry, but I can't help with that.",
    "Es tut mir leid, aber ich kann dir dabei nicht helfen.",
    "Leider kann ich diese Frage nicht beantworten.",
    "Ich bin leider nicht in der Lage, dir dabei zu helfen.",
    "Ich kann Ihnen bei dieser Anfrage leider nicht weiterhelfen.",
    "Je suis désolé, mais je ne peux pas répondre à cette question.",
    "Désolée, je ne peux pas vous aider.",
    "Je ne suis pas en mesure de fournir ces informations.",
    "Lo siento, pero no puedo ayudarte con eso.",
    "No puedo proporcionar esa información.",
    "Mi dispiace, ma non posso aiutarti.",
    "Desculpe, mas não posso ajudar com isso.",
    "Infelizmente não posso fornecer essa informação.",
    "Het spijt me, maar ik kan je hier niet mee helpen.",
    "Извините, но я не могу помочь с этим.",
    "К сожалению, я не могу ответить на этот вопрос.",
    "很抱歉，我无法回答这个问题。",
    "对不起，我不能提供相关信息。",
    "申し訳ありませんが、その質問にはお答えできません。",
    "申し訳ございませんが、ご要望には対応いたしかねます。",
    "죄송하지만, 그 요청은 도와드릴 수 없습니다.",
    "죄송합니다. 해당 질문에 답변할 수 없습니다.",
]
ANSWERS = [
    "I'm sorry, I couldn't find any restaurants in San Jose.",
    "I am sorry, I was unable to make the reservation. Shall I try another time?",
    "Sorry, the 5 pm show is sold out.",
    "Unfortunately, there are no rooms left on that day.",
    "I can't help but admire this film.",
    "I cannot recommend this place enough.",
    "I can't write this review without naming the cook.",
    "I can't answer the phone right now, she said.",
    "I won't be there before 8.",
    "The patient says that he cannot help with the housework any more.",
    "The assistant said: I'm sorry, but I can't help with that.",
    "He cannot answer the question.",
    "I understand your problem; please restart the router.",
    "Thank you for waiting. Your order was sent today.",
    "Sorry for the delay! The answer is 42.",
    "As an AI engineer, I build models.",
    "It is illegal to park there.",
    "Leider ist der Zug verspätet.",
    "Ich kann das Fenster nicht öffnen.",
    "Ich kann Ihnen gerne helfen.",
    "Ich kann das nicht öffnen, aber ich werde dir helfen.",
    "Je ne peux pas ouvrir la porte.",
    "Je peux vous aider.",
    "Puedo ayudarte con eso.",
    "Ik kan je daarmee helpen.",
    "Я могу вам помочь.",
    "我可以帮你。",
    "不能提供早餐的酒店有三家。",
    "海外では提供できません。",
    "No puedo abrir la puerta.",
    "Het spijt me dat de trein te laat is.",
    "Извините, поезд опаздывает.",
    "很抱歉，火车晚点了。",
    "我不能去上海。",
    "申し訳ありませんが、電車が遅れています。",
    "죄송합니다. 기차가 늦습니다.",
    "entailment",
    "",
]


def reason(text: str, task: str = "conversation", **fields: Any) -> str | None:
    finding = load_plugin("checks", {"kind": "refusals", **fields}).refuse(ROW, Reply(text), load_plugin("tasks", task))
    assert finding is None or finding.again
    return finding.reason if finding else None


@pytest.mark.parametrize("text", DECLINES)
def test_an_answer_that_declines_is_refused(text: str) -> None:
    assert reason(text) == "declines to answer"


@pytest.mark.parametrize("text", ANSWERS)
def test_an_answer_that_says_cannot_or_sorry_is_no_refusal(text: str) -> None:
    assert reason(text) is None


def test_a_long_answer_that_helps_after_all_stays() -> None:
    text = "I'm sorry, but I can't provide legal advice. Here is what the law says: " + "it depends on the place. " * 40
    assert reason(text) is None
    assert reason(text, max_words=1000) is not None


def test_a_label_is_an_answer_whatever_stands_before_it() -> None:
    text = "I'm sorry, but I can't help with opinions. The label is entailment."
    assert reason(text, task="nli") is None
    assert reason("I'm sorry, but I can't help with that.", task="nli") is not None
    assert reason("I'm sorry, but I can't help with that.", task="classification") is not None


def test_own_phrases_are_known_too() -> None:
    assert reason("REQUEST BLOCKED by policy 7", phrases=["Request blocked"]) == "declines to answer"
    assert reason("The request blocked the queue", phrases=["Request blocked"]) is None


def test_what_people_wrote_is_left_alone(tmp_path: Path) -> None:
    room = Room(load_plugin("tasks", "conversation"), tmp_path, (), lambda teacher, requests: [])
    rows = [Answered(ROW, Reply(DECLINES[0]), source) for source in ("gold", "teacher")] + [Answered(ROW, None, "prompt")]
    gold, teacher, prompt = load_plugin("checks", "refusals").watch(room).look(rows)
    assert (gold, prompt) == (None, None)
    assert isinstance(teacher, Finding)


@given(st.text(max_size=500) | st.text("i am sorry,.t'cn", max_size=500))
@settings(max_examples=60, deadline=500)
def test_no_text_takes_long(text: str) -> None:
    reason(text)
