/* The smallest program there is: what starting one costs is the rest. */
int main(void)
{
    return 0;
}
