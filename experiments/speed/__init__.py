from experiments.speed.implementations import IMPLEMENTATIONS as IMPLEMENTATIONS
from experiments.speed.page import markdown as markdown
from experiments.speed.steps import ratios as ratios
