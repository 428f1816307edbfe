"""Refuses answers in which a teacher declines to answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from pydantic import Field
from typing_extensions import override

from ..contracts import Answered, Check, Finding, Room, Task, Watch
from ..text.texts import normalised, without_thinking, words
from ..types import Example, Reply

HEAD = 400
"""Letters looked at: a refusal says so at once."""
_EDGE = " \t\r\n\"'`*_#>“”«»-"


class _Language(NamedTuple):
    """How a language declines: what may come first, "I cannot", and what is not done; or a whole opening by itself."""

    lead: str
    cannot: str
    deed: str
    opening: str = r"(?!)"

    def pattern(self) -> str:
        return rf"(?:{self.lead})?(?:(?:{self.cannot}){self.deed}|{self.opening})"


_ENGLISH = _Language(
    lead=r"(?:(?:hi|hello|hey)\b[^,.!]{0,20}[,.!] *)?(?:no[,.] *)?(?:(?:(?:i'm|i am|we're|we are)(?: (?:really|very|so|"
    r"truly))? )?sorry(?: (?:that )?you[^.,]{1,60})?|i'm afraid|i am afraid|(?:my |please accept my )?apologies|"
    r"i (?:must )?apologi[sz]e|unfortunately|regrettably|thank you for [^.,!]{1,60}|i understand [^.,]{1,80}|"
    r"i appreciate [^.,]{1,80})(?: for (?:the|any|your)[^.,]{1,40})?[,.:;!-]*(?: *(?:but|however|that|and|"
    r"unfortunately)\b,?)* *|as an? [^,.]{0,30}\b(?:ai|language model|assistant)\b[^,.]{0,40}, *",
    cannot=r"(?:i|we) (?:(?:simply|just|really|also) )?(?:(?:can't|cannot|can not|won't|will not)(?: and will not)?|refuse to|"
    r"(?:must|have to) decline to|(?:am|are) (?:unable|not able|not allowed|not permitted|not willing|not going) to|(?:am|"
    r"are) not (?:comfortable|able)|do(?:n't| not) feel comfortable)|(?:i'm|we're) (?:unable to|not able to|not allowed to|"
    r"not permitted to|not comfortable|not willing to|not going to)",
    deed=r"(?: (?:directly|ethically|in good conscience|to))? (?:(?:help|helping)(?! (?:but|it|my|feel|think|wonder|laugh|"
    r"notice))\b|assist|comply|engage (?:in|with)|participate in|promote|endorse|condone|facilitate|(?:answer|answering|"
    r"respond to|fulfil|fulfill|satisfy|complete|process|continue|proceed|accommodate|discuss|discussing|do)(?: with)? (?:this|"
    r"that|your|the|such|any|these|those)(?: [^ .,]+){0,2} ?(?:request|question|task|topic|prompt|instruction|conversation|"
    r"content|subject|quer)|(?:answer|do|discuss|continue|fulfil|fulfill) (?:this|that|it)\b(?= ?[.,!]|$)|(?:provide|providing|"
    r"give|giving|offer|offering|share|sharing|generate|generating|create|creating|produce|producing|write|writing|support|"
    r"supporting)(?: you)?(?: with)? (?:(?:that|this)(?= ?[.,!]|$)|(?:[^ .,]+ ){0,4}(?:advice|instructions?|guidance|assistance|"
    r"help|content|material|malware|information (?:on|about|that|regarding|related)|opinions?|(?:an|the) answer|responses?|"
    r"summar(?:y|ies)|personal information|medical|legal|financial|harmful|explicit|illegal|hateful|violent)))",
    opening=r"as an? [^,.]{0,30}\b(?:ai|language model)\b[^,.]{0,40}, *i (?:can't|cannot|don't|do not|am not|'m not|am unable|"
    r"won't)|i(?:'m going to have to| must| have to| will have to|'ll have to| need to) (?:respectfully |politely )?decline|"
    r"i(?:'d| would) (?:rather|prefer) not (?:to )?(?:answer|say|discuss|share)|(?:this|that|your|the) (?:request|question|"
    r"content|prompt|topic) (?:violates|goes against|is against|appears to violate|may violate|can't be|cannot be (?:answered|"
    r"fulfilled))|it (?:would be|is|wouldn't be|isn't) (?:in|un|not )?(?:appropriate|ethical) for me to|i (?:don't|"
    r"do not) (?:engage in|participate in|provide|create|generate) (?:[^ .,]+ ){0,3}(?:content|material|advice|conversations?|"
    r"instructions)",
)
_OTHERS = (
    _Language(  # German
        r"(?:(?:es )?tut mir (?:sehr )?leid|entschuldigung|entschuldige|leider|bedaure|ich bedauere?|als (?:ki|sprachmodell|"
        r"ki-\w+)[^,.]{0,30})[,.!]?(?: *(?:aber|dass|leider)\b)?,? *",
        r"(?:ich )?(?:kann|darf|werde|möchte) [^.]{0,60}?\bnicht|(?:ich bin|bin ich)(?: leider)? nicht in der lage,?",
        r"(?: [^.,]{1,50})? (?:helfen|beantworten|erfüllen|weiterhelfen|unterstützen|nachkommen|behilflich)\b",
    ),
    _Language(  # French
        r"(?:(?:je suis |nous sommes )?(?:vraiment |sincèrement )?désolée?s?|(?:je m'|veuillez m')?excuse[rz]?(?:-moi)?|"
        r"malheureusement|je regrette|en tant qu[e'][^,.]{0,40})[,.!]?(?: *(?:mais|que)\b)?,? *",
        r"(?:je|nous) (?:ne|n') ?(?:peux|puis|pouvons|suis|sommes|veux|voudrais)(?: malheureusement)?(?: pas|"
        r" malheureusement pas)?(?: (?:en mesure|autorisée?|capable) (?:de |d'))?",
        r" ?(?:vous |t'|y |te )?(?:aider|assister|répondre|fournir|satisfaire|donner|traiter|accéder à)",
    ),
    _Language(  # Spanish
        r"(?:lo siento(?: mucho)?|lo lamento|disculp[ae](?:s|n)?|perdón|perdona|lamentablemente|desafortunadamente|"
        r"como (?:una? )?(?:ia|inteligencia artificial|modelo de lenguaje|asistente)[^,.]{0,40})[,.!]?(?: *(?:pero|que)\b)?,? *",
        r"(?:yo )?no (?:puedo|podemos|me es posible|estoy en condiciones de|tengo permitido)",
        r" (?:ayudar|asistir|responder|proporcionar|cumplir|ofrecer|dar(?:te|le)? (?:consejos|información)|realizar esa|"
        r"continuar)",
    ),
    _Language(  # Italian
        r"(?:mi dispiace(?: molto)?|spiacente|scusa(?:mi)?|purtroppo|in quanto (?:ia|modello)[^,.]{0,40})[,.!]?(?: *(?:ma|"
        r"che)\b)?,? *",
        r"(?:io )?non (?:posso|possiamo|mi è possibile|sono in grado di)",
        r" (?:aiutar|assister|risponder|fornir|soddisfar|offrir|dare consigli)",
    ),
    _Language(  # Portuguese
        r"(?:desculp[ae](?:-me|m)?|lamento(?: muito)?|sinto muito|infelizmente|como (?:uma? )?(?:ia|modelo de linguagem|"
        r"assistente)[^,.]{0,40})[,.!]?(?: *(?:mas|que)\b)?,? *",
        r"(?:eu )?não (?:posso|podemos|consigo|me é possível|estou apto a)",
        r" (?:(?:te|lhe|o) )?(?:ajudar|ajudá|auxiliar|responder|fornecer|cumprir|oferecer|atender)",
    ),
    _Language(  # Dutch
        r"(?:het spijt me|sorry|helaas|mijn excuses|als (?:ai|taalmodel)[^,.]{0,30})[,.!]?(?: *(?:maar|dat)\b)?,? *",
        r"(?:ik )?(?:kan|mag|wil)(?: ik)?",
        r"(?: [^ .]+){0,6}? niet(?: [^ .]+){0,4}? (?:helpen|beantwoorden|assisteren|voldoen|ondersteunen)|"
        r"(?: [^ .]+){0,3} helaas niet helpen",
    ),
    _Language(  # Russian
        r"(?:извините?|простите|прошу прощения|к сожалению|мне (?:очень )?жаль|сожалею|как (?:ии|искусственный интеллект|"
        r"языковая модель)[^,.]{0,40})[,.!]?(?: *(?:но|что)\b)?,? *",
        r"(?:я |мы )?не (?:могу|можем|смогу|сможем|вправе|в состоянии|готова?)",
        r" (?:вам |тебе |с этим )?(?:помочь|ответить|предоставить|выполнить|помогать|обсуждать|дать (?:совет|информацию)|"
        r"поддержать)",
    ),
    _Language(  # Chinese
        r"",
        r"(?:(?:(?:非常|很|十分|实在)?(?:抱歉|对不起|對不起|遗憾|遺憾)|不好意思|作为[^,。]{0,20}(?:ai|人工智能|语言模型|"
        r"助手)[^,。]{0,10})[,。!]? *(?:但是?)?,? *(?:我|我们|我們)?|(?:我|我们|我們)) *(?:无法|無法|不能|不可以|没有办法|"
        r"没法|不会|不便)",
        r"[^。,]{0,12}?(?:帮|幫|协助|協助|回答|回应|提供|满足|完成(?:这|该|您|你)|继续(?:这|该)|生成|讨论|"
        r"处理(?:这|该|您|你)|支持(?:这|该))",
    ),
    _Language(  # Japanese
        r"",
        r"(?:(?:大変|誠に)?申し訳(?:ありません|ございません|ないです|ない)(?:が|けれども|けど)?|すみません(?:が)?|"
        r"恐れ入りますが|残念ながら)[、,。]? *",
        r"[^。]{0,40}(?:お答え|お手伝い|お応え|回答|対応|提供|支援|お力になる)[^。]{0,12}(?:できません|できかねます|"
        r"いたしかねます|致しかねます|ことはでき)",
    ),
    _Language(  # Korean
        r"",
        r"(?:(?:정말 )?죄송합니다|죄송하지만|미안하지만|미안합니다|유감스럽게도|안타깝게도)[.,]?(?: *(?:하지만|만))?,? *",
        r"[^.]{0,40}(?:도와|도움|답변|답할|제공|응답|대답|수행)[^.]{0,16}(?:수 없|어렵|없습니다|못합니다|않습니다)",
    ),
)
_DECLINES = re.compile("|".join(language.pattern() for language in (_ENGLISH, *_OTHERS)))


class Refusals(Check):
    """Refuses an answer that begins by declining: "I'm sorry, but I can't help with that", in eleven languages.

    It looks at the beginning of short answers alone, so a summary in which somebody cannot do something stays, and so does a
    long answer that helps after all. Where the task has a closed set of labels, an answer that gives one is no refusal.
    People's own answers (gold) are left alone. English, German, French, Spanish, Italian, Portuguese, Dutch, Russian,
    Chinese, Japanese, Korean.
    """

    max_words: int = Field(default=120, ge=1, description="longer answers are not looked at")
    phrases: tuple[str, ...] = Field(default=(), description="more beginnings that decline, whatever case they are written in")

    @override
    def refuse(self, example: Example, reply: Reply, task: Task) -> Finding | None:
        text = without_thinking(reply.text)
        head = normalised(text[:HEAD].replace("’", "'")).lstrip(_EDGE)
        begins = _DECLINES.match(head) or any(head.startswith(normalised(phrase).lstrip(_EDGE)) for phrase in self.phrases)
        if not begins or len(words(text)) > self.max_words:
            return None
        if getattr(task, "labels", None) and task.read(reply.text) is not None:
            return None
        return Finding("declines to answer", again=True)

    @override
    def watch(self, room: Room) -> Watch:
        return _Watch(self, room)


class _Watch(Watch):
    """Leaves alone what people wrote: they may have meant it."""

    @override
    def look(self, answers: Sequence[Answered]) -> list[Finding | Answered | None]:
        found = super().look(answers)
        return [None if one.source == "gold" else said for one, said in zip(answers, found, strict=True)]
