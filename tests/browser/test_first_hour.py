"""The newcomer's first hour in a real Chromium: log in, choose a slice, watch it start, run a cell."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support import expected_conditions as until
from selenium.webdriver.support.ui import WebDriverWait

from tests.browser.chrome import chromium
from tests.running_hub import RunningHub

LIMITS = """
version: 1
defaults:
  max_mig_instances: 1
  max_cpus: 1
  memory: "700m"
  shm_size: "96m"
  pids_limit: 300
groups:
  students: {members: [ana], memory: "800m"}
"""

#: Run inside the container: what its own cgroup and environment say. Version 1 and 2 name the files differently.
READ_LIMITS = """
import json, os, pathlib
g = pathlib.Path("/sys/fs/cgroup")
def read(*names):
    return next(((g / n).read_text().split() for n in names if (g / n).exists()), None)
quota = read("cpu.max") or read("cpu/cpu.cfs_quota_us") + read("cpu/cpu.cfs_period_us")
stat = os.statvfs("/dev/shm")
print("LIMITS" + json.dumps({
    "memory": int(read("memory.max", "memory/memory.limit_in_bytes")[0]),
    "pids": int(read("pids.max", "pids/pids.max")[0]),
    "cpus": int(quota[0]) / int(quota[1]),
    "shm": stat.f_frsize * stat.f_blocks,
    "uid": os.getuid(),
    "gpu": os.environ["NVIDIA_VISIBLE_DEVICES"],
}) + "END")
"""


@pytest.fixture
def site_config() -> str:
    """A start that takes long enough for its page to be there before its steps: alone it may be faster than a page."""
    return "import asyncio\nc.Spawner.pre_spawn_hook = lambda spawner: asyncio.sleep(3)"


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[WebDriver]:
    with chromium(tmp_path / "profile") as driver:
        yield driver


def wait(browser: WebDriver, seconds: int = 60) -> WebDriverWait[WebDriver]:
    return WebDriverWait(browser, seconds, ignored_exceptions=[StaleElementReferenceException])


def log_in(browser: WebDriver, hub: RunningHub, user: str) -> None:
    browser.get(f"{hub.url}/hub/spawn")
    wait(browser).until(until.presence_of_element_located((By.ID, "username_input"))).send_keys(user)
    browser.find_element(By.ID, "password_input").send_keys(hub.password)
    browser.find_element(By.ID, "login_submit").click()
    wait(browser).until(until.presence_of_element_located((By.NAME, "gpu")))


def run_cell(browser: WebDriver, line: str) -> str:
    """Open a notebook from the launcher, run one line, and give all output once it holds END."""
    card = (By.CSS_SELECTOR, '.jp-LauncherCard[data-category="Notebook"]')
    wait(browser, 120).until(until.element_to_be_clickable(card)).click()
    idle = (By.CSS_SELECTOR, '.jp-Notebook-ExecutionIndicator[data-status="idle"]')
    wait(browser, 120).until(until.presence_of_element_located(idle))
    wait(browser).until(lambda b: type_line(b, line))
    run = (By.CSS_SELECTOR, '[data-command="notebook:run-cell-and-select-next"]')
    wait(browser).until(until.element_to_be_clickable(run)).click()
    output = (By.CSS_SELECTOR, ".jp-OutputArea-output")
    wait(browser, 120).until(until.text_to_be_present_in_element(output, "END"))
    return "".join(element.text for element in browser.find_elements(*output))


def type_line(browser: WebDriver, line: str) -> bool:
    """Type into the first cell; False where the notebook drew its cells anew meanwhile and the text is gone."""
    try:
        browser.find_element(By.CSS_SELECTOR, ".jp-Notebook .jp-CodeCell .cm-content").click()
        everything = ActionChains(browser).key_down(Keys.CONTROL).send_keys("a").key_up(Keys.CONTROL)
        everything.send_keys(line).perform()
        return browser.find_element(By.CSS_SELECTOR, ".jp-Notebook .jp-CodeCell .cm-content").text == line
    except StaleElementReferenceException:
        return False


def steps_until_lab(browser: WebDriver, user: str) -> list[str]:
    """The messages that the pending page shows, in order, until JupyterLab has taken over."""
    seen: list[str] = []

    def look(b: WebDriver) -> bool:
        for element in b.find_elements(By.ID, "progress-message"):
            if (text := element.text) and text not in seen:
                seen.append(text)
        return f"/user/{user}/" in b.current_url

    WebDriverWait(browser, 120, poll_frequency=0.05, ignored_exceptions=[StaleElementReferenceException]).until(look)
    return seen


def test_choose_a_slice_and_find_exactly_that_inside(browser: WebDriver, gpu_hub: RunningHub) -> None:
    """What the cell reads of its own cgroup and devices equals the resolved limits and the lease."""
    hub = gpu_hub
    log_in(browser, hub, "ana")
    browser.find_element(By.CSS_SELECTOR, 'input[name="gpu"][value="1g"]').click()
    assert "free" in browser.find_element(By.TAG_NAME, "form").text
    browser.find_element(By.CSS_SELECTOR, 'form [type="submit"]').click()
    assert {"Starting the container", "Waiting for JupyterLab"} & set(steps_until_lab(browser, "ana"))

    folder = next((hub.state / "users").glob("ana*/workspace"))
    (folder / "read_limits.py").write_text(READ_LIMITS)
    (folder / "read_limits.py").chmod(0o644)
    output = run_cell(browser, "%run /workspace/read_limits.py")
    inside: dict[str, Any] = json.loads(output.split("LIMITS", 1)[1].split("END", 1)[0].replace("\n", ""))

    limits = {key: entry["value"] for key, entry in hub.api("GET", "ds01/v1/limits/ana").json()["limits"].items()}
    (lease,) = hub.leases()
    assert inside["memory"] == limits["memory"] == 800 << 20
    assert inside["pids"] == limits["pids_limit"] == 300
    assert inside["cpus"] == limits["max_cpus"] == 1
    assert inside["shm"] == limits["shm_size"] == 96 << 20
    assert inside["uid"] != 0
    assert [device["class"] for device in lease["devices"]] == ["1g"]
    assert inside["gpu"] == lease["devices"][0]["uuid"]


def test_a_refusal_is_told_on_the_page(browser: WebDriver, gpu_hub: RunningHub) -> None:
    """A refusal shows the rule and what would work, not an error page, and takes nothing."""
    hub = gpu_hub
    log_in(browser, hub, "ben")
    browser.find_element(By.CSS_SELECTOR, 'input[name="gpu"][value="1g"]').click()
    # Two devices of a user who may have one: the form doesn't offer it, a forged field asks for it anyway.
    browser.execute_script(
        "const f = document.querySelector('input[name=gpu]').form;"
        "const c = document.createElement('input'); c.name = 'count'; c.value = '2'; f.appendChild(c);"
    )
    browser.find_element(By.CSS_SELECTOR, 'form [type="submit"]').click()
    wait(browser).until(lambda b: "at most 1" in b.find_element(By.TAG_NAME, "body").text)
    assert "max_mig_instances" in browser.page_source or "defaults" in browser.page_source
    assert "Internal Server Error" not in browser.page_source
    assert hub.leases() == []
