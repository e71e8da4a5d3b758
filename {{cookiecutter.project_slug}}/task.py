{% include "tasks/" ~ cookiecutter.task_type ~ "/task.py" -%}
