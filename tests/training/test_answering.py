"""What a finished model answers, against transformers' own pipelines and models."""

import json
import socket
import threading

import pytest
import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMultipleChoice,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    pipeline,
)

from tests.training.tiny import BERT_SIZES, save_decoder, save_encoder, save_masker, save_writer
from trainer_core.errors import InvalidSpec
from trainer_core.predictions import INPUTS, PredictionSettings, Question, parse_inputs
from trainer_core.spec import TASKS, parse_spec
from trainer_core.training.models.sentence_folders import SentenceForm, write_form
from trainer_core.training.predicting.answering import WAYS, open_answerer
from trainer_core.training.predicting.serving import serve

pytestmark = pytest.mark.slow


def spec_of(task, **changes):
    example = {**TASKS[task].example, **changes}
    return parse_spec({**example, "max_length": 64})


def answers(folder, task, inputs, *, tell=None, settings=None, **changes):
    answerer = open_answerer(folder, spec_of(task, **changes), device="cpu")
    given = PredictionSettings(**(settings or {})).model_dump(mode="json")
    with torch.inference_mode():
        return answerer(parse_inputs(task, inputs), given, tell)


def save_bert(folder, kind, **settings):
    """Save a BERT with a head of random weights that differ enough to be told apart."""
    save_encoder(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    kind(
        BertConfig(vocab_size=len(tokenizer), **BERT_SIZES, initializer_range=0.5, **settings)
    ).save_pretrained(folder)
    return folder


LABELS = {"id2label": {0: "red", 1: "blue"}, "label2id": {"red": 0, "blue": 1}}


def test_every_task_is_asked_and_answers():
    assert set(INPUTS) == set(WAYS) == set(TASKS)


def test_a_classifier_names_the_label(tmp_path):
    folder = save_bert(tmp_path, BertForSequenceClassification, **LABELS)
    texts = ["a small red", "cold blue old"]

    found = answers(folder, "text-classification", texts)

    expected = pipeline("text-classification", model=str(folder))(texts)
    for output, wanted in zip(found.outputs, expected, strict=True):
        assert output["label"] == wanted["label"]
        assert output["score"] == pytest.approx(wanted["score"], abs=1e-6)
        assert sum(output["scores"].values()) == pytest.approx(1)
    assert found.num_input_tokens == 10


def test_a_classifier_of_several_labels_names_those_above_the_threshold(tmp_path):
    folder = save_bert(tmp_path, BertForSequenceClassification, **LABELS)

    found = answers(
        folder, "text-classification", ["a small red"], problem="multi-label", threshold=0.5
    )

    (output,) = found.outputs
    assert output["labels"] == [n for n, score in output["scores"].items() if score >= 0.5]


def test_a_tagger_finds_spans(tmp_path):
    names = {0: "O", 1: "B-COLOUR", 2: "I-COLOUR"}
    folder = save_bert(tmp_path, BertForTokenClassification, id2label=names)
    text = "a small red cold blue old"

    (output,) = answers(folder, "token-classification", [text]).outputs

    tag = pipeline("token-classification", model=str(folder), aggregation_strategy="simple")
    expected = tag(text)
    assert [one["label"] for one in output["entities"]] == [e["entity_group"] for e in expected]
    assert output["entities"]
    assert all(text[one["start"] : one["end"]] == one["text"] for one in output["entities"])


def test_an_answer_is_found_in_any_window_of_a_text(tmp_path):
    folder = save_bert(tmp_path, BertForQuestionAnswering)
    context = " ".join(["a small red cold blue old"] * 30)
    spec = {"max_answer_length": 3, "doc_stride": 8, "max_question_length": 16}

    (output,) = answers(
        folder, "question-answering", [{"question": "is it new", "context": context}], **spec
    ).outputs

    assert context[output["start"] : output["end"]] == output["answer"]
    assert 1 <= len(output["answer"].split()) <= 3
    model = BertForQuestionAnswering.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    short = tokenizer("is it new", "a small red", return_tensors="pt")
    with torch.no_grad():
        logits = model(**short)
    inside = [n for n, part in enumerate(short.sequence_ids(0)) if part == 1]
    best = max(
        ((a, b) for a in inside for b in inside if a <= b),
        key=lambda span: float(logits.start_logits[0, span[0]] + logits.end_logits[0, span[1]]),
    )
    question = {"question": "is it new", "context": "a small red"}
    (of_short,) = answers(folder, "question-answering", [question], **spec).outputs
    words = ["a", "small", "red"]
    assert of_short["answer"] == " ".join(words[best[0] - inside[0] : best[1] - inside[0] + 1])


def test_one_of_several_choices_is_chosen(tmp_path):
    folder = save_bert(tmp_path, BertForMultipleChoice)
    asked = {"question": "is it", "choices": ["red", "blue", "cold"]}

    (output,) = answers(folder, "multiple-choice", [asked]).outputs

    model = BertForMultipleChoice.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(["is it"] * 3, asked["choices"], return_tensors="pt")
    with torch.no_grad():
        logits = model(**{name: tensor[None] for name, tensor in tokens.items()}).logits[0]
    assert output["choice"] == int(logits.argmax())
    assert output["scores"] == pytest.approx(logits.softmax(-1).tolist(), abs=1e-6)


def test_a_masked_word_is_guessed(tmp_path):
    folder = save_masker(tmp_path)

    (output,) = answers(folder, "masked-lm", ["a [MASK] red"]).outputs

    expected = pipeline("fill-mask", model=str(folder))("a [MASK] red")
    assert [one["token"] for one in output["guesses"][0]] == [e["token_str"] for e in expected]
    with pytest.raises(InvalidSpec, match="has no \\[MASK\\]"):
        answers(folder, "masked-lm", ["a red"])


def test_a_reward_model_scores_a_text(tmp_path):
    folder = save_bert(tmp_path, BertForSequenceClassification, num_labels=1)

    (output,) = answers(folder, "reward-model", ["a small red"]).outputs

    reward = pipeline("text-classification", model=str(folder), function_to_apply="none")
    assert output["score"] == pytest.approx(reward("a small red")[0]["score"], abs=1e-5)


def test_a_text_becomes_a_vector(tmp_path):
    folder = save_encoder(tmp_path)
    form = SentenceForm(pooling="cls", is_normalized=False)
    write_form(folder, form, base=folder, num_dimensions=BERT_SIZES["hidden_size"])

    found = answers(folder, "sentence-embedding", ["a small red", "cold"])

    from sentence_transformers import SentenceTransformer

    expected = SentenceTransformer(str(folder), device="cpu").encode(["a small red", "cold"])
    for output, wanted in zip(found.outputs, expected, strict=True):
        assert output["vector"] == pytest.approx(wanted.tolist(), abs=1e-5)


def test_a_prompt_is_gone_on_with(tmp_path):
    folder = save_decoder(tmp_path)

    found = answers(folder, "causal-lm", ["a small red"], settings={"max_new_tokens": 8})

    generate = pipeline("text-generation", model=str(folder))
    (wanted,) = generate("a small red", max_new_tokens=8, do_sample=False, return_full_text=False)
    assert found.outputs[0] == {"text": wanted["generated_text"], "finish_reason": "length"}
    assert found.num_output_tokens == 8


def test_a_conversation_is_answered_piece_by_piece(tmp_path):
    folder = save_decoder(tmp_path)
    asked = [{"messages": [{"role": "user", "content": "a small red"}]}]
    settings = {"max_new_tokens": 8, "temperature": 1.0, "seed": 3}
    pieces = []

    whole = answers(folder, "causal-lm", asked, settings=settings).outputs[0]["text"]
    told = answers(folder, "causal-lm", asked, settings=settings, tell=pieces.append)

    assert "".join(pieces) == told.outputs[0]["text"] == whole
    assert len(pieces) > 1


def test_writing_ends_before_a_word_that_ends_it(tmp_path):
    folder = save_decoder(tmp_path)
    settings = {"max_new_tokens": 16, "temperature": 1.0, "seed": 3}
    free = answers(folder, "causal-lm", ["a small"], settings=settings).outputs[0]["text"]
    stop = free[5:7]
    pieces = []

    found = answers(
        folder, "causal-lm", ["a small"], settings={**settings, "stop": [stop]}, tell=pieces.append
    )

    (output,) = found.outputs
    assert output == {"text": free[: free.index(stop)], "finish_reason": "stop"}
    assert "".join(pieces) == output["text"]
    assert found.num_output_tokens < 16


def test_a_prompt_longer_than_the_model_takes_is_refused_and_a_long_answer_is_cut(tmp_path):
    folder = save_decoder(tmp_path)

    with pytest.raises(InvalidSpec, match="the model can take 128"):
        answers(folder, "causal-lm", ["a small red " * 100])
    found = answers(folder, "causal-lm", ["a " * 30], settings={"max_new_tokens": 1000})

    assert found.num_input_tokens + found.num_output_tokens <= 128


def test_a_model_without_a_template_is_not_asked_in_messages(tmp_path):
    folder = save_decoder(tmp_path, template=None)

    with pytest.raises(InvalidSpec, match="no chat template"):
        answers(folder, "dpo", [{"messages": [{"role": "user", "content": "a"}]}])


def test_a_text_is_rewritten(tmp_path):
    folder = save_writer(tmp_path, words=["a", "small", "red"])

    found = answers(folder, "summarization", ["a small red"], settings={"max_new_tokens": 4})

    assert set(found.outputs[0]["text"].split()) <= {"a", "small", "red"}
    assert 1 <= found.num_output_tokens <= 4


def test_the_process_answers_over_its_socket_and_outlives_an_error(tmp_path, monkeypatch):
    folder = save_decoder(tmp_path / "model")
    monkeypatch.setattr("os.nice", lambda _: 0)  # of this process, for good
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        server = threading.Thread(target=serve, args=[path])
        server.start()
        connection, _ = listener.accept()
    settings = PredictionSettings(max_new_tokens=4).model_dump(mode="json")
    with connection, connection.makefile("rwb") as lines:

        def ask(text, *, is_streamed=False):
            spec = spec_of("causal-lm").model_dump(mode="json")
            question = Question(str(folder), spec, "cpu", [{"prompt": text}], settings, is_streamed)
            lines.write(json.dumps(question.to_dict()).encode() + b"\n")
            lines.flush()
            told = [json.loads(lines.readline())]
            while "text" in told[-1]:
                told.append(json.loads(lines.readline()))
            return told

        first = ask("a small red")
        bad = ask("a small red " * 100)
        again = ask("a small red", is_streamed=True)
    server.join(30)

    assert first[-1]["num_output_tokens"] == 4
    assert bad[-1]["error"]["code"] == "invalid_spec"
    assert bad[-1]["error"]["detail"]["errors"][0]["pointer"] == "/inputs/0"
    assert "".join(one["text"] for one in again[:-1]) == again[-1]["outputs"][0]["text"]
    assert not server.is_alive()
