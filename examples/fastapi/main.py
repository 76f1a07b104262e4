"""The web service: each user's reminders, which run in this process."""

from datetime import datetime
from typing import Annotated, Self
from uuid import uuid4

from fastapi import Depends, FastAPI, HTTPException, Path, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, model_validator

from pyncette import PyncetteContext, schedules
from pyncette.asgi import context_of, lifespan
from pyncette.errors import StoreError
from pyncette.model import ContinuationToken, TaskState
from tasks import app, remind

api = FastAPI(title="Reminders", lifespan=lifespan(app))


class Reminder(BaseModel):
    text: Annotated[str, Field(min_length=1, max_length=500)]
    schedule: str
    timezone: str = "UTC"

    @model_validator(mode="after")
    def check_schedule(self) -> Self:
        schedules.validate(self.schedule, self.timezone)
        return self


class StoredReminder(Reminder):
    id: str
    next_times: list[datetime]


class Page(BaseModel):
    reminders: list[StoredReminder]
    next_page: str | None


async def scheduler(request: Request) -> PyncetteContext:
    return context_of(request)


Scheduler = Annotated[PyncetteContext, Depends(scheduler)]
# Without a slash: it separates the user and the id in the name of an instance, as in `ada/17`.
Name = Annotated[str, Path(pattern=r"^[\w.@-]{1,64}$")]
Limit = Annotated[int, Query(ge=1, le=100)]


async def existing(user: Name, reminder_id: Name, scheduler: Scheduler) -> TaskState:
    state = await scheduler.get_task(remind, f"{user}/{reminder_id}")
    if state is None:
        raise HTTPException(404, "no such reminder")
    return state


def shown(state: TaskState) -> StoredReminder:
    task, due = state.task, state.scheduled_at
    schedule, zone, text = task.schedule or "", task.timezone or "UTC", task.extra_args["text"]
    times = [due, *schedules.next_times(schedule, zone, after=due, n=2)] if due else []
    reminder_id = task.name.partition("/")[2]
    return StoredReminder(id=reminder_id, text=text, schedule=schedule, timezone=zone, next_times=times)


async def store(user: str, reminder_id: str, wanted: Reminder, scheduler: Scheduler) -> StoredReminder:
    name, args = f"{user}/{reminder_id}", {"user": user, "text": wanted.text}
    await scheduler.schedule_task(  # with force, since a change wins over a run that is in progress
        remind, name, force=True, schedule=wanted.schedule, timezone=wanted.timezone, args=args
    )
    return shown(await existing(user, reminder_id, scheduler))


@api.post("/users/{user}/reminders", status_code=201)
async def create(user: Name, reminder: Reminder, scheduler: Scheduler) -> StoredReminder:
    return await store(user, str(uuid4()), reminder, scheduler)


@api.get("/users/{user}/reminders")
async def find(
    user: Name, scheduler: Scheduler, limit: Limit = 20, page: ContinuationToken | None = None
) -> Page:
    try:
        found = await scheduler.list_tasks(remind, limit, page, prefix=f"{user}/")
    except ValueError as error:  # the page is invented, or of another user
        raise HTTPException(422, str(error)) from None
    return Page(reminders=[shown(state) for state in found.tasks], next_page=found.continuation_token)


@api.put("/users/{user}/reminders/{reminder_id}", dependencies=[Depends(existing)])
async def change(user: Name, reminder_id: Name, reminder: Reminder, scheduler: Scheduler) -> StoredReminder:
    return await store(user, reminder_id, reminder, scheduler)


@api.delete("/users/{user}/reminders/{reminder_id}", status_code=204, dependencies=[Depends(existing)])
async def delete(user: Name, reminder_id: Name, scheduler: Scheduler) -> None:
    await scheduler.unschedule_task(remind, f"{user}/{reminder_id}")


@api.exception_handler(StoreError)
async def unavailable(request: Request, error: StoreError) -> JSONResponse:
    return JSONResponse({"detail": "the database is unavailable: try again later"}, 503)
