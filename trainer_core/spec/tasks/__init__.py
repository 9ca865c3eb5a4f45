"""One file a task, or two that are alike, and the one place where all of them are listed.

The tasks themselves are in `trainer_core/training/tasks/`, one file each under the same name; a
test holds the two sets equal.
"""

from trainer_core.spec.tasks.causal_lm import CausalLM
from trainer_core.spec.tasks.dpo import DPO
from trainer_core.spec.tasks.kto import KTO
from trainer_core.spec.tasks.masked_lm import MaskedLM
from trainer_core.spec.tasks.orpo import ORPO
from trainer_core.spec.tasks.question_answering import QuestionAnswering
from trainer_core.spec.tasks.reward_model import RewardModel
from trainer_core.spec.tasks.sentence_embedding import SentenceEmbedding
from trainer_core.spec.tasks.seq2seq import Summarization, Translation
from trainer_core.spec.tasks.text_classification import TextClassification
from trainer_core.spec.tasks.token_classification import TokenClassification

JobSpec = (
    TextClassification
    | TokenClassification
    | QuestionAnswering
    | Summarization
    | Translation
    | CausalLM
    | MaskedLM
    | SentenceEmbedding
    | DPO
    | KTO
    | ORPO
    | RewardModel
)
