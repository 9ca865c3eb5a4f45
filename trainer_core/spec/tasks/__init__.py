"""One file a task, and the one place where all of them are listed.

The tasks themselves are in `trainer_core/training/tasks/`, one file each under the same name; a
test holds the two sets equal.
"""

from trainer_core.spec.tasks.causal_lm import CausalLM
from trainer_core.spec.tasks.multiple_choice import MultipleChoice
from trainer_core.spec.tasks.question_answering import QuestionAnswering
from trainer_core.spec.tasks.text_classification import TextClassification

JobSpec = TextClassification | CausalLM | QuestionAnswering | MultipleChoice
