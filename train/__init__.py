"""What runs where the model is: data, training, checkpoints, merge, evaluation, report."""

import os

from train.libraries import set_up_libraries

# Here, because the libraries read it while they are imported, which every program does after this line.
set_up_libraries(rank=int(os.environ.get("RANK", "0")))
