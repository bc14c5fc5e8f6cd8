"""DEAP: ``toolbox.register("map", pool.map)``; its classes are made at import by ``creator.create``."""

from __future__ import annotations

import random

from compat_tests.libraries.availability import require

algorithms, base, creator, tools = (require(f"deap.{part}") for part in ("algorithms", "base", "creator", "tools"))

creator.create("CompatFitness", base.Fitness, weights=(1.0,))
creator.create("CompatIndividual", list, fitness=creator.CompatFitness)


def count(individual):
    return (sum(individual),)


def evolve(map_function):
    random.seed(13)
    toolbox = base.Toolbox()
    toolbox.register("bit", random.randint, 0, 1)
    toolbox.register("individual", tools.initRepeat, creator.CompatIndividual, toolbox.bit, 20)
    toolbox.register("population", tools.initRepeat, list, toolbox.individual)
    toolbox.register("evaluate", count)
    toolbox.register("mate", tools.cxTwoPoint)
    toolbox.register("mutate", tools.mutFlipBit, indpb=0.05)
    toolbox.register("select", tools.selTournament, tournsize=3)
    toolbox.register("map", map_function)
    population, _ = algorithms.eaSimple(toolbox.population(n=20), toolbox, 0.5, 0.2, 5, verbose=False)
    return [list(individual) for individual in population]


def test_pool_map_gives_the_serial_population(multiprocessing):
    with multiprocessing.Pool(2) as pool:
        assert evolve(pool.map) == evolve(map)


def test_executor_map_gives_the_serial_population(executor_class):
    with executor_class(2) as executor:
        assert evolve(executor.map) == evolve(map)
